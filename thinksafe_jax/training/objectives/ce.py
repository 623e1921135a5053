"""Cross-entropy of every response token (paper section 4, equation 3)."""

from thinksafe_jax.training.examples import Example
from thinksafe_jax.training.objectives._weighted_streams import WeightedStreams
from thinksafe_jax.training.streams import Streams, target_weights


class CrossEntropy(WeightedStreams):
    """One stream, `ce`."""

    stream_names = ("ce",)

    def streams(self, example: Example) -> Streams:
        """Every target of the response."""
        return {"ce": target_weights(example, self._weighting)}


OBJECTIVE = CrossEntropy
