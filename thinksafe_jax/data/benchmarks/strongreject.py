"""StrongREJECT: 313 forbidden prompts."""

from thinksafe_jax.data.benchmarks._benchmark import Benchmark, PaperColumn
from thinksafe_jax.data.kinds import HARMFUL

BENCHMARK = Benchmark(
    HARMFUL,
    hub=("walledai/StrongREJECT", None, "train"),
    files=("strongreject_dataset.csv",),
    paper=PaperColumn("strongreject", "StrongREJECT", "SR"),
    questions=313,
)
