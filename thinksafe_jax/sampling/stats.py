"""What a run of the sampler counts."""

import time
from dataclasses import dataclass

from thinksafe_jax.compilations import Compilations, compilations_so_far


@dataclass
class EngineStats:
    """Counters of one `generate` call; tokens are useful ones, after-the-end steps not counted."""

    completions: int = 0
    tokens: int = 0
    windows: int = 0
    slot_steps: int = 0  # slots x decode steps, or passes with drafts
    drafted_windows: int = 0  # of all windows
    drafted_passes: int = 0  # of one slot each
    accepted: int = 0  # draft tokens that were right: tokens without a pass of their own
    replayed_tokens: int = 0  # of windows without drafts, where drafting is not off
    replayed_passes: int = 0  # that those had taken with drafts
    prefill_calls: int = 0
    prompt_tokens: int = 0
    padded_prompt_tokens: int = 0
    preemptions: int = 0
    recomputed_tokens: int = 0
    live_tokens: int = 0  # in the KV cache, summed over windows
    pool_tokens: int = 0  # that the KV cache holds, summed over windows
    active: int = 0  # slots busy now
    seconds: float = 0.0
    waiting_seconds: float = 0.0  # of the host for the device; the rest is not all overlapped
    compiles: int = 0
    compile_seconds: float = 0.0

    def count_time(self, began: float, compiled: Compilations) -> None:
        """Takes the seconds and compilations since then; `began` is of `time.perf_counter`."""
        now = compilations_so_far()
        self.seconds = time.perf_counter() - began
        self.compiles = now.count - compiled.count
        self.compile_seconds = now.seconds - compiled.seconds

    @property
    def occupancy(self) -> float:
        """Share of slot-steps that produced a token that was kept, or several."""
        return (self.tokens - self.accepted) / max(1, self.slot_steps)

    @property
    def tokens_per_pass(self) -> float:
        """Tokens that a pass of one slot made with drafts, 1 where there was none."""
        return 1 + self.accepted / max(1, self.drafted_passes)

    @property
    def drafts(self) -> str:
        """What came of drafting, for people; empty where it is off."""
        if not self.drafted_windows and not self.replayed_passes:
            return ""
        text = f", drafts in {self.drafted_windows} of {self.windows} windows"
        if self.drafted_passes:
            text += f" ({self.tokens_per_pass:.2f} tokens a pass)"
        if self.replayed_passes:
            would = self.replayed_tokens / self.replayed_passes
            text += f", not worth it in the others ({would:.2f} tokens a pass)"
        return text

    @property
    def pool_use(self) -> float:
        """Mean share of the KV cache that holds live tokens."""
        return self.live_tokens / max(1, self.pool_tokens)

    @property
    def padding(self) -> float:
        """Prefilled tokens over prompt tokens."""
        return self.padded_prompt_tokens / max(1, self.prompt_tokens)

    def __str__(self) -> str:
        """One line for people."""
        rate = self.tokens / self.seconds if self.seconds else 0.0
        return (
            f"{self.tokens:,} tokens in {self.seconds:.0f} s ({rate:,.0f}/s), "
            f"occupancy {self.occupancy:.2f}, KV cache {self.pool_use:.0%} live, "
            f"prompt padding {self.padding:.2f}, {self.preemptions} preemptions, "
            f"{self.compiles} programs compiled in {self.compile_seconds:.0f} s{self.drafts}"
        )
