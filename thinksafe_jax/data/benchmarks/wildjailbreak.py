"""WildJailbreak: adversarial harmful prompts of its evaluation split."""

from thinksafe_jax.data.benchmarks._benchmark import Benchmark, PaperColumn
from thinksafe_jax.data.kinds import HARMFUL

BENCHMARK = Benchmark(
    HARMFUL,
    hub=("allenai/wildjailbreak", "eval", "train"),
    prompt="adversarial",
    filters={"data_type": ("adversarial_harmful",)},
    paper=PaperColumn("wildjailbreak", "WildJailbreak", "WJ"),
    questions=2000,
)
