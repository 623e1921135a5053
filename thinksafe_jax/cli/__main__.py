"""python -m thinksafe_jax.cli: the same as the command `thinksafe`."""

from thinksafe_jax.cli import main

main()
