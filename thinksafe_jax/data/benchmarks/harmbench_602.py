"""HarmBench as the authors evaluate it: 301 objectives, two prompts each."""

from thinksafe_jax.data.benchmarks._benchmark import Benchmark, PaperColumn
from thinksafe_jax.data.kinds import HARMFUL

BENCHMARK = Benchmark(
    HARMFUL,
    files=("harmbench.json",),
    prompt="prompt",
    cluster="objective",
    paper=PaperColumn("harmbench", "HarmBench", "HB"),
    questions=602,
)
