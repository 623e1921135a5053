"""Guards without a model, by name; each file beside this one is a matcher, named after the file."""

from collections.abc import Callable

from thinksafe_jax.guards.protocol import Guard
from thinksafe_jax.variants import Variants

MATCHERS: Variants[Callable[[], Guard]] = Variants(__name__, "MATCHER", "guard")
