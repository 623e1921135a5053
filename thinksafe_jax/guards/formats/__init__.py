"""The guard formats by name; each file beside this one is a `GuardFormat`, named after the file."""

from thinksafe_jax.guards.guard_format import GuardFormat
from thinksafe_jax.variants import Variants

FORMATS: Variants[GuardFormat] = Variants(__name__, "FORMAT", "guard format")
