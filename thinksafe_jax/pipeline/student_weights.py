"""The student's weights: on the devices once, in the form that a phase needs.

                          checkpoint
            load_params  |          |  load_params
                         v          v
    for_generation                   for_training
    [L, ...] stacked    <--reshard-->    [L, ...] stacked
    generation mesh                  training mesh (FSDP)
        ^       |
        |       | unstack_layers
        |       v
    stack_layers, reshard
        |       |
    for_sampling
    L dicts of [...]
    generation mesh

A form that is asked for takes the place of the one before: arrays go one by one, so the devices
hold the weights once and one array twice. With several processes each holds other parts on the two
meshes; then nothing is moved, and each process reads from the checkpoint what it needs.
"""

from collections.abc import Callable
from typing import Any

import jax

from thinksafe_jax.models import Params, stack_layers, unstack_layers
from thinksafe_jax.sharding import reshard

Shardings = Any  # a tree like the parameters, layers stacked


class StudentWeights:
    """Holds the weights in one of three forms, and makes each from the one before.

    Args:
        load: reads the checkpoint; takes the shardings of its arrays, None for one device.
        generation: shardings on the sampler's mesh; None on one device.
        training: shardings on the training mesh; None where training has the sampler's form.
    """

    def __init__(
        self,
        load: Callable[[Shardings | None], Params],
        *,
        generation: Shardings | None,
        training: Shardings | None,
    ):
        self._load, self._generation, self._training = load, generation, training
        self._form, self._params = "", {}  # nothing is loaded yet

    def for_generation(self) -> Params:
        """Layers stacked, `[L, ...]`, on the sampler's mesh."""
        if self._form == "sampling":
            # the stack of layers that were cut lies where the compiler put it
            self._hold("generation", reshard(stack_layers(self._release()), self._generation))
        elif self._form != "generation":
            self._hold("generation", self._moved(self._generation))
        return self._params

    def for_sampling(self) -> Params:
        """Layers apart, a dict for each, on the sampler's mesh: what decode runs on."""
        if self._form != "sampling":
            self.for_generation()
            self._hold("sampling", unstack_layers(self._release()))
        return self._params

    def for_training(self) -> Params:
        """Layers stacked, `[L, ...]`, on the training mesh."""
        if self._training is None:
            return self.for_generation()
        if self._form != "training":
            if self._form == "sampling" and jax.process_count() == 1:
                self.for_generation()
            self._hold("training", self._moved(self._training))
        return self._params

    def take(self) -> Params:
        """`for_generation`, handed over: the next form is read from the checkpoint again."""
        self.for_generation()
        return self._release()

    def replace(self, params: Params) -> None:
        """Holds these weights instead: layers stacked, on the sampler's mesh."""
        self._hold("generation", params)

    def _moved(self, shardings: Shardings | None) -> Params:
        """What is held in other shardings, or read anew where there is nothing to move."""
        held = self._release()
        if held and jax.process_count() == 1:
            return reshard(held, shardings)
        del held  # before the checkpoint is read, or the devices would hold both
        return self._load(shardings)

    def _hold(self, form: str, params: Params) -> None:
        self._form, self._params = form, params

    def _release(self) -> Params:
        """What is held, and no longer by this object: whoever has it may take it apart."""
        params = self._params
        self._hold("", {})
        return params
