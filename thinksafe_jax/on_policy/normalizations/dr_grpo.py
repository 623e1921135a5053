"""The sum over tokens by a constant (Dr. GRPO, arXiv 2503.20783): no bias by length at all."""


def dr_grpo(tokens: int, max_new_tokens: int) -> tuple[float, float]:
    """Each token counts 1, each rollout as many tokens as it could have had."""
    del tokens
    return 1.0, float(max_new_tokens)


NORMALIZATION = dr_grpo
