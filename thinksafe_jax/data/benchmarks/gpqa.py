"""GPQA Diamond: multiple choice; the options are shuffled by the row's id alone."""

from thinksafe_jax.data.benchmarks._benchmark import Benchmark, PaperColumn
from thinksafe_jax.data.kinds import REASONING

_TEMPLATE = (
    r"Return your final response within \boxed{} and only include the letter choice "
    "(A, B, C, or D) as your final response. {prompt}"
)

BENCHMARK = Benchmark(
    REASONING,
    hub=("Idavidrein/gpqa", "gpqa_diamond", "train"),
    files=("gpqa_diamond.csv",),
    answer="Correct Answer",
    row_id="Record ID",
    template=_TEMPLATE,
    style="choice",
    options=("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),
    paper=PaperColumn("gpqa", "GPQA", "GPQA"),
    questions=198,
)
