"""Cross-entropy on harmful rows, the divergence from the untrained model on benign ones.

The paper's ThinkSafe with KL (section 4; the authors' `kl_trainer.py`). The reference is the same
model with its adapter off.
"""

from thinksafe_jax.training.examples import Example
from thinksafe_jax.training.objectives._weighted_streams import WeightedStreams
from thinksafe_jax.training.streams import Stream, Streams, target_weights


class CrossEntropyAndKl(WeightedStreams):
    """Two streams, `ce` and `kl`, divided by the targets of both."""

    stream_names = ("ce", "kl")

    def streams(self, example: Example) -> Streams:
        """The row's targets in one of the streams, zeros in the other."""
        stream = target_weights(example, self._weighting)
        nothing = Stream(0 * stream.weights, stream.count)
        ce, kl = (nothing, stream) if example.use_kl else (stream, nothing)
        return {"ce": ce, "kl": kl}


OBJECTIVE = CrossEntropyAndKl
