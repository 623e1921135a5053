"""MATH-500: competition mathematics, answers in LaTeX."""

from thinksafe_jax.data.benchmarks._benchmark import BOXED, Benchmark, PaperColumn
from thinksafe_jax.data.kinds import REASONING

BENCHMARK = Benchmark(
    REASONING,
    hub=("HuggingFaceH4/MATH-500", None, "test"),
    files=("math500_test.jsonl",),
    answer="answer",
    template=BOXED,
    paper=PaperColumn("math500", "MATH500", "MATH"),
    questions=500,
)
