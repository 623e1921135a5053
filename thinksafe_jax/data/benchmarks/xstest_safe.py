"""XSTest's 250 safe prompts: how often a harmless prompt is refused."""

from thinksafe_jax.data.benchmarks._benchmark import Benchmark, PaperColumn
from thinksafe_jax.data.kinds import OVER_REFUSAL

BENCHMARK = Benchmark(
    OVER_REFUSAL,
    hub=("walledai/XSTest", None, "test"),
    files=("xstest_prompts.csv",),
    filters={"label": ("safe",)},
    paper=PaperColumn("xstest", "XSTest", "XST"),
    questions=250,
)
