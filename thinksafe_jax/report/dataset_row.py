"""One row of a dataset as training sees it, for the terminal."""

from itertools import groupby, islice
from pathlib import Path

from rich.text import Text

from thinksafe_jax.errors import ConfigError, InputError
from thinksafe_jax.runs import begun_recipe
from thinksafe_jax.synthesis import read_dataset
from thinksafe_jax.terminal import clean
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.training import build_example
from thinksafe_jax.weights import resolve_model

LOSS, CONTEXT = "green", "dim"


def show_row(run_path: Path, index: int) -> Text:
    """Row `index` (from 0) of RUN/dataset: a line of facts, then its tokens as text.

    What the loss is on is green, what the model only reads is dim; terminal escapes in the text
    are taken out.

    Raises:
        ConfigError: not a run directory.
        InputError: no dataset, or it ends before the row.
    """
    if not (run_path / "config.yaml").exists():
        raise ConfigError(f"{run_path} is no run directory (no config.yaml)")
    row = next(islice(read_dataset(run_path), index, None), None)
    if row is None:
        raise InputError(f"{run_path}: the dataset has no row {index}; the first is 0")
    student = begun_recipe(run_path).student
    revisions = run_path / "models.json"
    tokenizer = ChatTokenizer(resolve_model(student.model, student.revision, revisions))
    ended = row["finish_reason"] != "length"
    example = build_example(tokenizer, row["instruction"], row["response"], row["id"], ended)
    targets = int(example.loss_mask.sum())
    shown = Text(f"{clean(row['id'])}  {row['prompt_label']}  {len(example)} tokens, ")
    shown.append(f"{targets} with loss", LOSS)
    shown.append("\n\n")
    pairs = zip(example.loss_mask.tolist(), example.token_ids.tolist(), strict=True)
    for loss, group in groupby(pairs, key=lambda pair: pair[0]):
        text = tokenizer.decode([token for _, token in group], special=True)
        shown.append(clean(text), LOSS if loss else CONTEXT)
    return shown
