"""Where compiled programs are kept between runs, so that a second start compiles nothing."""

import os
from pathlib import Path

VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def compile_cache_folder() -> Path:
    """The folder JAX's own variable names, else one in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get(VARIABLE) or Path(home) / "thinksafe_jax" / "compiled")


def enable_compile_cache() -> None:
    """Lets JAX keep what took it over half a second to compile. Starts no back end."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(compile_cache_folder()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
