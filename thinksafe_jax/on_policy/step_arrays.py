"""The arrays of a step's rollouts: which shapes there are, and where each number stands."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from thinksafe_jax.config import TrainingConfig
from thinksafe_jax.on_policy.rollouts import Rollout
from thinksafe_jax.training import Layout, Stream, StreamedExample


def step_layouts(
    training: TrainingConfig, shards: int, sequence_shards: int = 1, *, with_states: bool
) -> list[Layout]:
    """Shapes of a step, smallest first: known before any rollout, so a run compiles them once.

    With states of a reference an array holds a vector for each token, so there are shapes of 1, 2,
    4 ... passes; without them there is the largest alone.

    Args:
        shards, sequence_shards: devices over which the sequences of a pass are cut, and the tokens
            of each.
    """
    grain = math.lcm(16 if training.max_length <= 1024 else 128, sequence_shards)
    length = -(-training.max_length // grain) * grain
    sequences = max(shards, training.micro_batch_size // shards * shards)
    most = -(-training.batch_size // sequences)
    passes = [most]
    if with_states:
        passes = sorted({min(2**n, most) for n in range(most.bit_length() + 1)})
    return [Layout(count, sequences, length) for count in passes]


def rollout_example(
    rollout: Rollout,
    streams: Mapping[str, Stream],
    heat: float | None,
    states: np.ndarray | None,
) -> StreamedExample:
    """The row of a rollout: its streams and facts stand at the targets of its response.

    Facts: "temperature" and "sampled" `[T - 1]`: how each target was drawn, and how likely it was;
    "reference" `[T - 1, R]`, the states of a reference that reads another prompt or is another
    model.

    Args:
        heat: the temperature that the loss is at; None is the model itself, at temperature 1.
        states: of the reference, at the tokens of the response.
    """
    prompt, response = rollout.prompt_ids, rollout.token_ids
    token_ids = np.asarray([*prompt, *response], np.int32)
    mask = np.arange(len(token_ids)) >= len(prompt)
    targets, first = len(token_ids) - 1, len(prompt) - 1

    def at_response(values: np.ndarray, fill: float = 0.0) -> np.ndarray:
        whole = np.full((targets, *values.shape[1:]), fill, values.dtype)
        whole[first:] = values
        return whole

    sampled = rollout.logprobs if heat is None else rollout.sampling_logprobs
    temperature = np.full(len(response), heat or 1.0, np.float32)
    facts = {"temperature": at_response(temperature, 1.0), "sampled": at_response(sampled)}
    if states is not None:
        facts["reference"] = at_response(states)
    placed = {
        name: replace(stream, weights=at_response(stream.weights))
        for name, stream in streams.items()
    }
    return StreamedExample(
        f"{rollout.prompt.id}#{rollout.sample}", token_ids, mask, facts=facts, streams=placed
    )
