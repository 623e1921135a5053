"""AIME 2024: 30 problems whose answers are whole numbers."""

from thinksafe_jax.data.benchmarks._benchmark import BOXED, Benchmark, PaperColumn
from thinksafe_jax.data.kinds import REASONING

BENCHMARK = Benchmark(
    REASONING,
    hub=("HuggingFaceH4/aime_2024", None, "train"),
    files=("aime24.jsonl",),
    answer="answer",
    template=BOXED,
    paper=PaperColumn("aime24", "AIME24", "AIME"),
    questions=30,
)
