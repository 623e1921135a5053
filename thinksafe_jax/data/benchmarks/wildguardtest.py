"""WildGuardTest: the harmful prompts of WildGuardMix's test split."""

from thinksafe_jax.data.benchmarks._benchmark import Benchmark
from thinksafe_jax.data.kinds import HARMFUL

BENCHMARK = Benchmark(
    HARMFUL,
    hub=("allenai/wildguardmix", "wildguardtest", "test"),
    filters={"prompt_harm_label": ("harmful",)},
)
