"""The benchmarks by name. A benchmark is one file here: `aime24.py` defines the suite `aime24`.

Prompts of the reasoning benchmarks are SkyThought's, as in the paper (appendix C). The names in
`Benchmark.files` are those under which the benchmarks are published; `--data DIR` looks for them.
"""

from thinksafe_jax.data.benchmarks._benchmark import Benchmark, PaperColumn
from thinksafe_jax.data.kinds import REASONING
from thinksafe_jax.errors import ConfigError, did_you_mean, quoted
from thinksafe_jax.variants import Variants

__all__ = ["BENCHMARKS", "GROUPS", "Benchmark", "PaperColumn", "benchmark", "benchmark_kinds"]

BENCHMARKS: Variants[Benchmark] = Variants(__name__, "BENCHMARK", "suite")

# what one name on the command line stands for; the order is that of the tables
GROUPS = {
    "xstest": ("xstest-safe", "xstest-unsafe"),
    "safety": ("harmbench-602", "strongreject", "wildjailbreak", "xstest-safe", "xstest-unsafe"),
    "reasoning": ("aime24", "gsm8k", "math500", "gpqa"),
}


def benchmark_kinds() -> dict[str, str]:
    """What each benchmark measures, by its name: `{"gsm8k": "reasoning"}`."""
    return {name: known.kind for name, known in BENCHMARKS.items()}


def benchmark(name: str, kind: str = "") -> Benchmark:
    """The benchmark of that name, or a plain one of `kind` for a file of the user's own.

    Raises:
        ConfigError: an unknown name without a kind, or a kind that contradicts the name.
    """
    if name not in BENCHMARKS:
        if kind:
            return Benchmark(kind, answer="answer" if kind == REASONING else "")
        names = [*BENCHMARKS, *GROUPS]
        raise ConfigError(
            f"no suite {quoted(name)}{did_you_mean(name, names)} (known: {', '.join(names)}; a "
            "file of your own needs a kind: reasoning:NAME=FILE)"
        )
    known = BENCHMARKS[name]
    if kind not in ("", known.kind):
        raise ConfigError(f"suite {name} is of kind {known.kind}, not {kind}")
    return known
