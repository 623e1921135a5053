"""The first recipe as a file, and what to type next."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from thinksafe_jax.config import GuardConfig, check_limits, load_recipe, write_new
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.starter.first_choices import Choices, choose
from thinksafe_jax.starter.machine_at_hand import Machine, machine_at_hand
from thinksafe_jax.starter.recipe_text import recipe_text
from thinksafe_jax.starter.student_facts import StudentFacts, student_facts
from thinksafe_jax.terminal import clean
from thinksafe_jax.tokenizer import THINK_CLOSE


@dataclass(frozen=True)
class FirstRecipe:
    """What was written.

    Attributes:
        assumed: sentences on what was assumed of student and machine.
        commands: the next three, with what each is for.
    """

    file: Path
    assumed: list[str]
    commands: list[tuple[str, str]]


def write_first_recipe(
    model: str, out: Path | None = None, *, mesh: str | None = None, guard: str | None = None
) -> FirstRecipe:
    """Writes a recipe of trial size, and never over a file that is there.

    Args:
        model: see `student_facts`.
        out: the new file; default NAME-first.yaml in this folder.
        mesh, guard: in place of what the machine and its memory suggest.

    Raises:
        ConfigError: the file is there already, no such model, mesh or guard, or the student does
            not fit.
        InputError: a model of a family that is not known, or broken files.
        EnvironmentFault: it cannot be written; the Hub cannot be reached or refuses access.
    """
    if guard is not None:
        check_limits(GuardConfig(kind=guard.partition(":")[0]), "--guard")
    student = student_facts(model)
    name = f"{_plain(student.label)}-first"
    file = out or Path(f"{name}.yaml")
    if file.exists():
        raise ConfigError(f"{file} is there already; name another file with --out")
    machine = machine_at_hand(mesh)
    choices = choose(student, machine, guard)
    text = recipe_text(name, file, student, machine, choices)
    write_new(file, text)
    try:
        load_recipe(file)
    except ConfigError:  # as a guard that needs a model
        file.unlink()
        raise
    return FirstRecipe(file, _assumed(student, machine, choices), _commands(file, mesh is not None))


def _plain(label: str) -> str:
    """The label as a name of a run: small letters, digits, points and hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-.")[:80] or "student"


def _assumed(student: StudentFacts, machine: Machine, choices: Choices) -> list[str]:
    does = "reasons" if student.reasons else "does not reason"
    guard = choices.guard_model or choices.guard_kind
    doubt = (
        f"its chat template knows no {THINK_CLOSE}: if it answers at once, set "
        "synthesis.reasoning to none, or no answer is kept"
    )
    return [
        f"{clean(student.label)}: {student.parameters / 1e9:.2f} billion parameters, {does} "
        f"({student.reasons_because})",
        *([doubt] if student.reasons and not student.template_thinks else []),
        f"machine: {machine.said}; {machine.mesh_because}",
        f"guard {clean(guard)}: {choices.guard_because}",
    ]


def _commands(file: Path, elsewhere: bool) -> list[tuple[str, str]]:
    """(command, what it is for).

    Args:
        elsewhere: the recipe is for another machine than this one.
    """
    path = shlex.quote(str(file))
    begin = (f"thinksafe check --config {path}", "in seconds: is all there that it needs?")
    if elsewhere:
        begin = (f"thinksafe plan --config {path}", "here: what it needs there, stage by stage")
    return [
        begin,
        (
            f"thinksafe run --config {path} --trial 16",
            "16 prompts and questions: does every stage work?",
        ),
        (f"thinksafe run --config {path}", "all of it; the same command resumes it"),
    ]
