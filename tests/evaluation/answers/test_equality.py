"""The pool of comparing processes: what cannot compare is said, and is no wrong answer."""

import pytest

from thinksafe_jax.errors import EnvironmentFault, MissingRequirement
from thinksafe_jax.evaluation.answers import equality
from thinksafe_jax.evaluation.answers.equality import Equality, Pair
from thinksafe_jax.evaluation.answers.score import Answer, score

ALGEBRA = Answer(r"\boxed{2a}", "a+a")


@pytest.mark.parametrize("compat", [True, False])
def test_math_verify_that_cannot_be_imported_makes_no_answer_wrong(tmp_path, monkeypatch, compat):
    """As beside an antlr runtime that it does not know, which a later pip install may bring."""
    script = tmp_path / "worker.py"
    broken = "import sys\nsys.modules['antlr4'] = None\n"
    script.write_text(broken + equality._SCRIPT.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(equality, "_SCRIPT", script)
    with (
        Equality(workers=2) as pool,
        pytest.raises(MissingRequirement, match=r"cannot compare answers \(.*antlr4.*pip install"),
    ):
        score([ALGEBRA] * 3, pool, compat=compat)


@pytest.mark.parametrize(
    ("executable", "said"),
    [("/nowhere/python", "no process that compares"), ("/bin/true", "start")],
)
def test_a_process_that_does_not_start_is_said_and_waited_for_by_nobody(
    monkeypatch, executable, said
):
    """The pool lent its place to the process, and waited at its end for what never came back."""
    monkeypatch.setattr(equality.sys, "executable", executable)
    with Equality(workers=1) as pool, pytest.raises(EnvironmentFault, match=said):
        pool.compare([Pair("2a", "a+a")])
