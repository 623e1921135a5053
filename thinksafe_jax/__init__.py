"""ThinkSafe in JAX: self-generated safety data and LoRA training for reasoning models."""

__version__ = "0.1.0"
