"""XSTest's 200 unsafe contrasts: how often an unsafe prompt is answered."""

from thinksafe_jax.data.benchmarks._benchmark import Benchmark
from thinksafe_jax.data.kinds import COMPLIANCE

BENCHMARK = Benchmark(
    COMPLIANCE,
    hub=("walledai/XSTest", None, "test"),
    files=("xstest_prompts.csv",),
    filters={"label": ("unsafe",)},
    questions=200,
)
