"""Names of recipes, models, meshes and rule tables: one resolver, and the files that ship."""

from pathlib import Path

import pytest

from tests.support import REPOSITORY
from thinksafe_jax.config import copy_config, find_config, load_recipe, shipped_configs
from thinksafe_jax.errors import ConfigError, EnvironmentFault


@pytest.fixture
def empty_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_packages_files_are_the_repositorys():
    """A link, so that there is one copy; wheels hold the files (tests/test_wheel.py)."""
    link = REPOSITORY / "thinksafe_jax/configs"
    assert link.is_symlink()
    assert link.resolve() == REPOSITORY / "configs"
    listed = {f"{file.kind}/{file.name}.yaml" for file in shipped_configs()}
    real = {str(p.relative_to(REPOSITORY / "configs")) for p in REPOSITORY.glob("configs/*/*.yaml")}
    assert listed == real


@pytest.mark.parametrize(
    ("kind", "name", "file"),
    [
        ("recipes", "mini", "recipes/mini.yaml"),
        ("recipes", Path("mini"), "recipes/mini.yaml"),
        ("recipes", "configs/recipes/mini.yaml", "recipes/mini.yaml"),
        ("models", "Qwen3-0.6B", "models/qwen3-0.6b.yaml"),
        ("mesh", "v5e-16", "mesh/v5e-16.yaml"),
        ("rules", "whole", "rules/whole.yaml"),
    ],
)
def test_a_name_stands_for_the_shipped_file(empty_folder, kind, name, file):
    assert find_config(kind, name).samefile(REPOSITORY / "configs" / file)


def test_a_file_here_comes_before_the_shipped_one(empty_folder):
    mine = empty_folder / "configs/recipes/mini.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("name: mine\n")
    for name in ("mini", "MINI", "configs/recipes/mini.yaml"):
        assert find_config("recipes", name).samefile(mine)


def test_a_folder_of_the_name_is_no_recipe(empty_folder):
    (empty_folder / "mini").mkdir()
    assert load_recipe("mini").name == "mini"


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("recipes", "minni", "neither a file nor a name in configs/recipes; did you mean mini?"),
        ("recipes", "qwen3-8.yaml", "no recipe at qwen3-8.yaml; did you mean qwen3-8b?"),
        ("recipes", "configs/../pyproject.yaml", "no recipe at configs/../pyproject.yaml"),
        ("models", "Qwen3-9B", "no model 'Qwen3-9B': .* did you mean qwen3-8b?"),
        ("mesh", "v5e-17", "did you mean v5e-16?"),
        ("rules", "hole", "no rule table 'hole': .* did you mean whole?"),
        ("rules", "nothing-like-it", "; `thinksafe configs` lists the names"),
        ("rules", ".", r"\.: is a directory; expected a rule table"),
    ],
)
def test_a_misspelt_name_gives_the_nearest(empty_folder, kind, name, said):
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        find_config(kind, name)


@pytest.mark.parametrize("file", shipped_configs(), ids=lambda file: f"{file.kind}/{file.name}")
def test_every_file_says_what_it_is_and_which_command_uses_it(file):
    assert file.command.startswith("thinksafe ")
    assert 5 < len(file.description) < 220
    assert file.description.endswith(".")


def test_a_copy_to_edit(empty_folder):
    copy = copy_config("qwen3-8b")
    assert str(copy) == "qwen3-8b.yaml"
    assert load_recipe(copy) == load_recipe(REPOSITORY / "configs/recipes/qwen3-8b.yaml")
    model = copy_config("models/Qwen3-8B", Path("model.yaml"))
    assert model.read_text() == (REPOSITORY / "configs/models/qwen3-8b.yaml").read_text()


def test_a_copy_is_never_written_over_a_file(empty_folder):
    (empty_folder / "mini.yaml").write_text("mine")
    with pytest.raises(ConfigError, match=r"mini\.yaml is there already; name another .* --out"):
        copy_config("mini")
    assert (empty_folder / "mini.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("minni", "nothing of that name ships; did you mean mini?"),
        ("mesh/v5e-17", "did you mean mesh/v5e-16?"),
        ("meshes/v5e-16", "no kind 'meshes'; did you mean mesh?"),
        ("mesh/mini", "nothing of that name ships"),
        ("../pyproject", "no kind '..'"),
    ],
)
def test_a_copy_of_what_does_not_ship(empty_folder, name, said):
    with pytest.raises(ConfigError) as caught:
        copy_config(name)
    assert said in str(caught.value)


def test_a_copy_that_cannot_be_written(empty_folder):
    with pytest.raises(EnvironmentFault, match=r"cannot write absent/mini\.yaml: No such file"):
        copy_config("mini", Path("absent/mini.yaml"))
