"""A student measured before and after training, on the questions of the open run's recipe."""

from pathlib import Path

from thinksafe_jax.evaluation import evaluate
from thinksafe_jax.pipeline.session import Session, exported
from thinksafe_jax.pipeline.subject import judge_of, subject
from thinksafe_jax.runs import Run


def measure_before_and_after(run: Run, session: Session, trained: Path) -> None:
    """Evaluates the untouched student, then what a run made of it. Never steered.

    Args:
        run: where rows and figures go, below evaluation/.
        trained: the run directory that has the adapter, or the merged weights.
    """
    for name, tuned in (("before", None), ("after", trained)):
        folders = [session.directory, *([exported(trained)] if tuned else [])]
        evaluate(
            run.recipe.evaluation,
            subject(session, session.engine(tuned), folders),
            judge_of(session),
            run.path / "evaluation" / name,
            log=run.log,
            check_stop=run.check_stop,
            skip_bad_rows=run.skip_bad_rows,
        )
