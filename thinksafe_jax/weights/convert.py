"""`thinksafe convert SRC OUT`: a Hugging Face checkpoint to a verified Orbax copy, and back."""

from pathlib import Path

import jax
import numpy as np

from thinksafe_jax.errors import InputError
from thinksafe_jax.models import Params, load_config
from thinksafe_jax.weights.atomic_folder import read_config_json
from thinksafe_jax.weights.export import save_checkpoint
from thinksafe_jax.weights.loading import load_params
from thinksafe_jax.weights.orbax import is_orbax_copy, restore_copy, save_copy
from thinksafe_jax.weights.resolve import resolve_model


def convert_checkpoint(
    source: str, out: str | Path, revision: str | None = None, allow_nonfinite: bool = False
) -> str:
    """Copies a checkpoint into the other format, then reads the copy back and compares bits.

    Args:
        source: Hugging Face checkpoint (directory, Hub id, bucket) or an Orbax copy.
        out: new directory, or an earlier copy, which is replaced.
        allow_nonfinite: copy NaN and infinity, too.

    Returns:
        A sentence that says what was written.

    Raises:
        InputError: the source is damaged, or the copy differs from it.
        EnvironmentFault: the disk is full or cannot be written.
    """
    folder = resolve_model(source, revision)
    out = Path(out)
    if out.resolve() == folder.resolve():
        raise InputError(f"{out}: is the source itself; choose another directory")
    cfg = load_config(folder)
    params = load_params(folder, cfg, None, allow_nonfinite=allow_nonfinite)
    config = read_config_json(folder)
    back = is_orbax_copy(folder)
    if back:
        save_checkpoint(out, params, cfg, config, tokenizer_from=folder)
        copy = load_params(out, cfg, None, allow_nonfinite=allow_nonfinite)
        form = "Hugging Face checkpoint"
    else:
        save_copy(out, params, cfg, config, folder)
        copy, form = restore_copy(out, cfg), "Orbax copy"
    _compare(out, params, copy)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return f"{out}: {form}, {size / 1e9:.2f} GB, read back and bit-identical"


def _compare(out: Path, params: Params, copy: Params) -> None:
    def same(a: jax.Array, b: jax.Array) -> bool:
        left, right = np.asarray(a), np.asarray(b)
        return left.dtype == right.dtype and np.array_equal(
            left.reshape(-1).view(np.uint8), right.reshape(-1).view(np.uint8)
        )

    names = jax.tree_util.tree_leaves_with_path(jax.tree.map(same, params, copy))
    bad = [jax.tree_util.keystr(path, simple=True, separator=".") for path, ok in names if not ok]
    if bad:
        raise InputError(f"{out}: differs from its source in {bad[:8]}; the disk may be failing")
