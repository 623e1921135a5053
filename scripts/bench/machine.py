"""What a benchmark ran on; the scripts beside this one take it from here."""

from thinksafe_jax.machine import machine

__all__ = ["machine"]
