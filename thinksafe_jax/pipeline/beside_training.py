"""Other trainings on the dataset of a run, each in a folder of its own below RUN/trainings."""

import gc
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thinksafe_jax.config import Recipe
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.pipeline.flow import refuse_loop, run_pipeline
from thinksafe_jax.runs import data_folder, refuse_another, training_folder
from thinksafe_jax.storage import shown

log = logging.getLogger(__name__)


def train_others(
    run_dir: Path, recipes: Mapping[str, Recipe], *, skip_bad_rows: bool = False
) -> dict[str, dict[str, Any]]:
    """Trains, exports, evaluates and reports on each; what is done is skipped.

    Several processes may train in one run at the same time, each other names.

    Args:
        run_dir: the run, sampled and filtered.
        recipes: {name: the run's recipe with other `training.*`}.

    Returns:
        {name: the content of its report/summary.json}.

    Raises:
        ConfigError: a name, or a recipe that is not the run's but for its training; all are looked
            at before the first begins.
        InputError: the run has no dataset yet.
    """
    if (run := data_folder(run_dir)) != run_dir:
        raise ConfigError(f"{shown(run_dir)} is a training of {shown(run)}; give {shown(run)}")
    folders = {name: training_folder(run_dir, name) for name in recipes}
    for name, recipe in recipes.items():
        refuse_loop(recipe, "--as")
        refuse_another(recipe, folders[name], other_guards=False)
    summaries = {}
    for number, (name, recipe) in enumerate(recipes.items(), start=1):
        log.info("training %s, %d of %d", shown(folders[name]), number, len(recipes))
        summary = run_pipeline(recipe, folders[name], skip_bad_rows=skip_bad_rows)
        summaries[name] = summary or {}
        gc.collect()  # arrays of this training are gone before the next one's are made
    return summaries
