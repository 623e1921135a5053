"""Presets of sampling: the paper's, what the authors' code really did, and a quick look."""

from dataclasses import dataclass, replace

from thinksafe_jax.config import SamplingConfig
from thinksafe_jax.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """Sampling of the safety suites and of the reasoning suites, samples per reasoning question.

    `limit` keeps the first questions of each suite only.
    """

    safety: SamplingConfig
    reasoning: SamplingConfig
    samples: int
    limit: int | None = None


_PAPER = SamplingConfig(temperature=0.6, top_p=0.95, top_k=20, max_new_tokens=16384)
_LONG = replace(_PAPER, max_new_tokens=32768)
_SHORT = replace(_PAPER, max_new_tokens=512)

PRESETS = {
    "paper": Preset(_PAPER, _LONG, 8),
    # gen_response.py parses --top_k and never passes it on, so safety was sampled without (D1)
    "authors": Preset(replace(_PAPER, top_k=0), _LONG, 8),
    "quick": Preset(_SHORT, _SHORT, 1, limit=50),
}


def preset(name: str, *, opens_think: bool) -> Preset:
    """The settings of a preset for a family.

    Args:
        opens_think: the chat template opens `<think>` itself: R1-Distill, which the paper samples
            without top-k; the others are sampled with Qwen3's top-k of 20.

    Raises:
        ConfigError: no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"--preset {name}: choose from {', '.join(PRESETS)}")
    settings = PRESETS[name]
    if not opens_think:
        return settings
    safety, reasoning = (replace(s, top_k=0) for s in (settings.safety, settings.reasoning))
    return replace(settings, safety=safety, reasoning=reasoning)
