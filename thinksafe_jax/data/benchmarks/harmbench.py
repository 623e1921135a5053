"""HarmBench's standard behaviours, as its own repository publishes them."""

from thinksafe_jax.data.benchmarks._benchmark import Benchmark
from thinksafe_jax.data.kinds import HARMFUL

BENCHMARK = Benchmark(
    HARMFUL,
    hub=("walledai/HarmBench", "standard", "train"),
    files=("harmbench_all.csv",),
    filters={"FunctionalCategory": ("standard",)},
    filtered_on_hub=True,
)
