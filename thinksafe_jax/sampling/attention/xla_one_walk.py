"""The walk of `xla` as accelerators run it, on any platform.

A program that is compiled on a CPU to learn what an accelerator would run names it: there `xla`
would walk in several groups of slots.
"""

from thinksafe_jax.models import Implementation
from thinksafe_jax.sampling.attention.xla import one_walk, several_in_one_walk

IMPLEMENTATION = Implementation(
    one_walk, lambda request: None, order=3, several=several_in_one_walk
)
