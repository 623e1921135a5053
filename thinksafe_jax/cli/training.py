"""thinksafe train RUN --as NAME: other trainings on the dataset of a run."""

from dataclasses import replace
from pathlib import Path

from thinksafe_jax import hosts
from thinksafe_jax.errors import ConfigError


def print_other_trainings(
    run_dir: Path, template: str, overrides: list[str], skip_bad_rows: bool
) -> None:
    """Trains beside a run's own training and prints all side by side; see `expand_sweep`."""
    from thinksafe_jax.config import expand_sweep
    from thinksafe_jax.report import comparison_table
    from thinksafe_jax.storage import shown
    from thinksafe_jax.terminal import output

    trainings = expand_sweep(template, overrides)
    recipes = {name: _training_recipe(run_dir, name, of) for name, of in trainings.items()}
    from thinksafe_jax.pipeline import train_others

    summaries = train_others(run_dir, recipes, skip_bad_rows=skip_bad_rows)
    if hosts.current().first:
        console = output(110)
        console.print(comparison_table(list(summaries.items())))
        report = shown(run_dir / "report/report.html")
        console.print(f"report: {report}", markup=False, soft_wrap=True)


def _training_recipe(run_dir: Path, name: str, overrides: list[str]):
    """The recipe of another training: the run's with changes, or the one it was begun with."""
    from thinksafe_jax.runs import begun_recipe, training_folder, training_folders
    from thinksafe_jax.storage import shown

    if overrides:
        recipe = begun_recipe(run_dir, overrides)
        place = f"{recipe.run_dir or f'runs/{recipe.name}'}/trainings/{name}"
        return replace(recipe, name=f"{recipe.name}-{name}"[:200], run_dir=place)
    folder = training_folder(run_dir, name)
    if not (folder / "config.yaml").exists():
        names = ", ".join(other.name for other in training_folders(run_dir)) or "none yet"
        raise ConfigError(
            f"{shown(run_dir)} has no training {name} to go on with (there are: {names}); to begin "
            f"it, say what differs: --as {name} training.learning_rate=3e-5"
        )
    return begun_recipe(folder)
