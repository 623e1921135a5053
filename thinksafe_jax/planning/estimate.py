"""What a rule table would send and need, before anything is compiled: to say what to try first.

The formulas count what is large. What a compiled program says comes in their place.
"""

from thinksafe_jax.models import ModelConfig
from thinksafe_jax.planning.roofline import gathered_weights, ring_factor
from thinksafe_jax.sharding import Phase

# Temporaries of a LoRA step, in arrays of the hidden states, of the MLP's activations and of the
# head, beside the layers' inputs that are kept: fitted to scripts/bench/results/sharding_sweep.json
# (three models, five chips, three tables; tests/planning/test_search.py says how near they come).
_HIDDEN_STATES, _MLP_ACTIVATIONS, _HEADS = 12, 8, 2


def train_sent(cfg: ModelConfig, phase: Phase, positions: int, itemsize: int) -> float:
    """Bytes that a device sends in a LoRA step whose layers are computed again for the backward.

    Each layer sums over heads and MLP four times, as compiled programs do: forward, forward again,
    and twice for the gradients of the layer's inputs. FSDP gathers its weights twice. Where tokens
    are cut, attention exchanges them for heads: queries, keys, values and results, three times.

    Args:
        phase: divided for the model, as in all functions of this file.
        positions: tokens that a device has.
    """
    sums = 4 * cfg.num_layers * (ring_factor(phase, "heads") + ring_factor(phase, "mlp"))
    shards = phase.num_shards("embed")
    gathered = 2 * sum(gathered_weights(cfg, phase)) * (shards - 1) / shards
    heads = cfg.num_heads / phase.num_shards("heads")
    kv_heads = cfg.num_kv_heads / phase.num_shards("kv_heads")
    tokens_for_heads = (heads + kv_heads) * cfg.head_dim * ring_factor(phase, "sequence")
    exchanged = 3 * cfg.num_layers * tokens_for_heads
    return itemsize * (positions * (cfg.hidden_size * sums + exchanged) + gathered)


def train_temporaries(cfg: ModelConfig, phase: Phase, positions: int, itemsize: int) -> float:
    """Bytes of a device that a LoRA step takes beside weights and optimiser, about.

    Args:
        positions: tokens that a device has.
    """
    states = positions * cfg.hidden_size * (cfg.num_layers + _HIDDEN_STATES)
    mlp = positions * cfg.intermediate_size * _MLP_ACTIVATIONS / phase.num_shards("mlp")
    head = cfg.vocab_size * cfg.hidden_size * _HEADS / phase.num_shards("vocab")
    return itemsize * (states + mlp + head)
