"""What a run has cost, from what lies in its directory.

Rows are counted, not log lines: a run that was killed and resumed has cost what its rows say.
FLOPs follow from the counts by the arithmetic of `thinksafe plan`. The evaluation is left out: it
is the same for all methods. Seconds are those of the machine, and of a stretch that a kill ended
none are kept. A training on the samples of another run has cost these as well, as if it were alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from thinksafe_jax.config import SAMPLED, Recipe
from thinksafe_jax.planning import Workload, guards_of, workload_flops
from thinksafe_jax.runs import RowStore, data_folder
from thinksafe_jax.storage import parse
from thinksafe_jax.synthesis import attempts, steer
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.weights import resolve_model

_OF_DATA = ("sample", "judge")  # stages in the log of a run that others may train on
_TIMED = (*_OF_DATA, "rollout")


@dataclass(frozen=True)
class RunCost:
    """Counts of one run, or their means over several.

    Attributes:
        rows, prompt_tokens, sampled_tokens: answers that the student or a teacher wrote.
        guard_calls: exchanges that guards have read, each guard of a majority for itself.
        steps, trained_tokens: of the optimiser; tokens of every epoch.
        flops, seconds: stage -> floating-point operations, wall-clock seconds.
    """

    rows: float
    prompt_tokens: float
    sampled_tokens: float
    guard_calls: float
    steps: float
    trained_tokens: float
    flops: dict[str, float]
    seconds: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def of_training(self) -> "RunCost":
        """What is left where the samples were there already."""
        flops, seconds = (
            {stage: value if stage == "train" else 0.0 for stage, value in of.items()}
            for of in (self.flops, self.seconds)
        )
        none = dict.fromkeys(("rows", "prompt_tokens", "sampled_tokens", "guard_calls"), 0.0)
        return replace(self, **none, flops=flops, seconds=seconds)


def mean_cost(costs: list[RunCost]) -> RunCost | None:
    """The mean of each count; None of no run."""
    return _over(costs, len(costs)) if costs else None


def total_cost(costs: list[RunCost]) -> RunCost | None:
    """The sum of each count; None of no run."""
    return _over(costs, 1) if costs else None


def _over(costs: list[RunCost], divisor: int) -> RunCost:
    values: dict[str, Any] = {}
    for entry in fields(RunCost):
        parts = [getattr(cost, entry.name) for cost in costs]
        if isinstance(parts[0], dict):
            values[entry.name] = {k: sum(p[k] for p in parts) / divisor for k in parts[0]}
        else:
            values[entry.name] = sum(parts) / divisor
    return RunCost(**values)


def run_cost(path: Path, recipe: Recipe) -> RunCost:
    """The cost of a run that is trained, its samples included wherever they lie.

    Args:
        path: its directory, or that of a training.
        recipe: what it was run by.
    """
    data, metrics = data_folder(path), list(_metrics(path / "metrics.jsonl"))
    if data != path:
        metrics += [m for m in _metrics(data / "metrics.jsonl") if m["stage"] in _OF_DATA]
    steps = {m["step"]: m for m in metrics if m["stage"] == "train" and "loss" in m}
    rows, judged = _written(data, recipe)
    work = Workload(
        rows=len(rows),
        prompt_tokens=_prompt_tokens(data, recipe, rows),
        sampled_tokens=sum(row["tokens"] for row in rows),
        judged=judged,
        trained_tokens=sum(m.get("tokens") or 0 for m in steps.values()),
        trained_rows=max(steps, default=0) * recipe.training.batch_size,
    )
    return RunCost(
        rows=work.rows,
        prompt_tokens=work.prompt_tokens,
        sampled_tokens=work.sampled_tokens,
        guard_calls=judged * len(guards_of(recipe.guard)),
        steps=max(steps, default=0),
        trained_tokens=work.trained_tokens,
        flops=workload_flops(recipe, work),
        seconds=_seconds(metrics, steps.values()),
    )


def loss_curve(path: Path) -> list[tuple[int, float]]:
    """(step, training loss) of a run; of a step that was repeated the last line counts."""
    lines = (m for m in _metrics(path / "metrics.jsonl") if m["stage"] == "train" and "loss" in m)
    return sorted({m["step"]: m["loss"] for m in lines}.items())


def _metrics(file: Path) -> Iterator[dict[str, Any]]:
    """Lines of a log; one that a kill tore is left out."""
    lines = file.read_bytes().splitlines() if file.exists() else []
    for line in lines:
        row = parse(line)
        if row is not None and isinstance(row.get("stage"), str):
            yield row


def _written(path: Path, recipe: Recipe) -> tuple[list[dict[str, Any]], int]:
    """(rows that a model has written, how many of them a guard was asked about)."""
    if recipe.on_policy.method:
        steps = sorted((path / "rollouts").glob("step-*"))
        key = ("id", "step", "sample")
        rows = [row for step in steps for row in _rows(step / "samples", key)]
        return rows, sum(len(_rows(step / "verdicts", key)) for step in steps)
    if recipe.synthesis.method not in SAMPLED:
        return [], 0
    key = ("id", "attempt")
    return _rows(path / "samples", key), len(_rows(path / "verdicts", key))


def _rows(folder: Path, key: tuple[str, ...]) -> list[dict[str, Any]]:
    return RowStore(folder, key=key).read() if folder.is_dir() else []


def _prompt_tokens(path: Path, recipe: Recipe, rows: Sequence[dict[str, Any]]) -> int:
    """Tokens before the answers, the steering text among them."""
    if not rows:
        return 0
    teacher = recipe.synthesis.teacher
    writer = teacher if teacher.model else recipe.student
    tokenizer = ChatTokenizer(resolve_model(writer.model, writer.revision, path / "models.json"))

    @cache
    def tokens(text: str) -> int:
        return len(tokenizer.prompt_ids(text))

    ladder = {attempt.number: attempt.steering for attempt in attempts(recipe.synthesis)}
    return sum(
        tokens(steer(ladder[row["attempt"]], row["prompt"], row["label"]))
        if "attempt" in row
        else tokens(row["prompt"])  # a rollout is never steered
        for row in rows
    )


def _seconds(
    metrics: Sequence[dict[str, Any]], steps: Iterable[dict[str, Any]]
) -> dict[str, float]:
    """Seconds by stage; compiling is where it was waited for."""
    lines = {stage: [m for m in metrics if m["stage"] == stage] for stage in _TIMED}
    rollouts = {m["step"]: m for m in lines["rollout"]}.values()
    drawn = sum(m["sampling_seconds"] for m in rollouts)
    judged = sum(m["seconds"] for m in rollouts) - drawn
    return {
        "sample": sum(m["seconds"] for m in lines["sample"]) + drawn,
        "guard": sum(m["seconds"] for m in lines["judge"]) + judged,
        "train": sum(m.get("seconds") or 0.0 for m in steps),
    }
