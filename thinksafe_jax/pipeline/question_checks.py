"""Whether all prompts and questions of a run can be read: files, columns, labels, suites."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from thinksafe_jax.config import EvaluationConfig
from thinksafe_jax.data import LISTS, REASONING, Prompt, load_questions, read_prompts
from thinksafe_jax.evaluation import require_scorers
from thinksafe_jax.pipeline.fault_list import FaultList
from thinksafe_jax.pipeline.session import Session
from thinksafe_jax.synthesis import require_labels, synthesis_prompts


def check_questions(cfg: EvaluationConfig, pins: Path, faults: FaultList) -> Counter[str]:
    """Reads all that the evaluation asks, and looks for what compares the answers.

    Args:
        pins: file of the run that keeps the commits of Hub datasets, if it is there.

    Returns:
        {kind: answers of one evaluation}; a reasoning question has `samples` of them.
    """
    counts: Counter[str] = Counter()

    def whole(noted: FaultList) -> None:
        with noted.under("evaluation"):
            questions = load_questions(cfg, pins if pins.exists() else None)
            for question in questions.items:
                counts[question.kind] += cfg.samples if question.kind == REASONING else 1
            require_scorers(cfg, questions)

    def parts(noted: FaultList) -> None:
        for name in LISTS:
            for number, source in enumerate(getattr(cfg, name)):
                alone = replace(EvaluationConfig(judge=cfg.judge), **{name: [source]})
                with noted.under(f"evaluation.{name}[{number}]"):
                    load_questions(alone)
        for number, suite in enumerate(cfg.suites):
            with noted.under(f"evaluation.suites[{number}]"):
                load_questions(EvaluationConfig(suites=[suite]))

    _whole_or_parts(whole, parts, faults)
    return counts


def check_prompts(session: Session, faults: FaultList) -> list[Prompt]:
    """Reads and selects the prompts of the synthesis.

    They are compared with the evaluation's where nothing was wrong with those.

    Returns:
        Those that a run takes; empty where there was a fault.
    """
    recipe, prompts = session.recipe, list[Prompt]()
    evaluation_is_sound = not faults.concern("evaluation")

    def whole(noted: FaultList) -> None:
        with noted.under("synthesis.prompts"):
            if evaluation_is_sound:
                prompts.extend(session.selection.prompts)
            else:
                alone = replace(recipe, evaluation=EvaluationConfig())
                prompts.extend(synthesis_prompts(alone).prompts)
            if not recipe.on_policy.method:
                require_labels(recipe, prompts)

    def parts(noted: FaultList) -> None:
        for number, source in enumerate(recipe.synthesis.prompts):
            with noted.under(f"synthesis.prompts[{number}]"):
                read_prompts([source], require_label=True)

    _whole_or_parts(whole, parts, faults)
    return prompts


def _whole_or_parts(
    whole: Callable[[FaultList], None], parts: Callable[[FaultList], None], faults: FaultList
) -> None:
    """Notes what is wrong with the whole; part by part, where parts alone are wrong as well.

    The whole stops at its first fault, the parts show one each.
    """
    of_whole, of_parts = FaultList(), FaultList()
    whole(of_whole)
    if of_whole.faults:
        parts(of_parts)
    faults.extend(of_parts if of_parts.faults else of_whole)
