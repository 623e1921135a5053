"""The section `on_policy.server`: rollouts of a server that takes LoRA adapters, as vLLM does."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from thinksafe_jax.config.limits import POSITIVE, Range


@dataclass(frozen=True)
class RolloutServerConfig:
    """Who draws the rollouts instead of the sampler here, and where adapters are handed over."""

    # of an OpenAI-compatible server, as http://localhost:8000/v1; "" draws them here. The key of a
    # server that wants one is read from the environment variable ROLLOUT_API_KEY
    url: str = ""
    served_name: str = ""  # the server's name for the student without an adapter; default its model
    # a folder that this machine writes and the server reads; an adapter lies in it while it is used
    adapter_folder: str = ""
    served_folder: str = ""  # the same folder as the server sees it, as in a container
    concurrency: Annotated[int, Range(1, 4096)] = 64  # requests in flight, of each process
    timeout_seconds: Annotated[float, POSITIVE] = 600.0  # of one rollout
    retries: Annotated[int, Range(0, 100)] = 5  # of one rollout, with back-off

    @property
    def comparable(self) -> "RolloutServerConfig":
        """What decides the rollouts: that a server draws them, and what of; not where it stands."""
        url = "http://anywhere" if self.url else ""
        return RolloutServerConfig(url=url, served_name=self.served_name)

    def conflicts(self) -> Iterator[str]:
        """What does not go together, one sentence each, beginning with its key."""
        if not self.url and self != RolloutServerConfig():
            yield "url: no value given; expected the server's address, as http://localhost:8000/v1"
        if self.url and not self.adapter_folder:
            yield (
                "adapter_folder: no value given; expected a folder that this machine writes and "
                "the server reads"
            )


def server_conflicts(method: str, server: RolloutServerConfig, training: Any) -> Iterator[str]:
    """What of the other sections does not go with rollouts of a server.

    Args:
        method: of `on_policy`.
        training: the section.
    """
    if not server.url:
        return
    if not method:
        yield "on_policy.server: draws rollouts, and no on_policy.method is set"
    if method == "grpo" and not training.ratio_cap:
        yield (
            "on_policy.server: draws rollouts with another program's arithmetic, so their policy "
            "is not quite the one that is trained; set training.ratio_cap (2 cuts a token's "
            "importance ratio at 2)"
        )
