"""A variant is one file: it is listed by its name, found by it, and is what its folder holds."""

import pytest

from thinksafe_jax.errors import ConfigError
from thinksafe_jax.guards.formats import FORMATS
from thinksafe_jax.guards.guard_format import GuardFormat
from thinksafe_jax.guards.matchers import MATCHERS
from thinksafe_jax.synthesis import TEMPLATES
from thinksafe_jax.variants import Variants, variant_names


@pytest.mark.parametrize(
    ("variants", "names", "holds"),
    [
        (FORMATS, "llama-guard qwen3guard wildguard", lambda fmt: isinstance(fmt, GuardFormat)),
        (MATCHERS, "refusal-match", lambda make: make().weak),
        (TEMPLATES, "authors intent none paper risk suffix", lambda t: t.count("{prompt}") == 1),
    ],
)
def test_every_file_of_the_folder_is_a_variant(variants, names, holds):
    assert list(variants) == names.split()
    for name in variants:
        assert holds(variants[name])


def test_a_new_file_is_a_new_variant(tmp_path, monkeypatch):
    """The names are a listing; a file is imported when its variant is first asked for."""
    folder = tmp_path / "shapes"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "square_plus_dot.py").write_text("SHAPE = 'square and dot'\n")
    (folder / "broken_one.py").write_text("raise RuntimeError('imported too early')\n")
    monkeypatch.setattr("thinksafe_jax.variants._PACKAGE", tmp_path)
    monkeypatch.syspath_prepend(tmp_path.parent)
    assert variant_names("shapes") == ("broken-one", "square+dot")
    shapes = Variants[str](f"{tmp_path.name}.shapes", "SHAPE", "shape")
    assert shapes["square+dot"] == "square and dot"
    assert "square_plus_dot" not in shapes and len(shapes) == 2
    with pytest.raises(ConfigError, match=r"no shape 'sqare\+dot'; did you mean square\+dot\?"):
        shapes["sqare+dot"]
