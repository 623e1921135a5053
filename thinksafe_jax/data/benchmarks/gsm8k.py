"""GSM8K's test set: grade-school word problems; a gold answer ends in `#### 18`."""

from thinksafe_jax.data.benchmarks._benchmark import Benchmark, PaperColumn
from thinksafe_jax.data.kinds import REASONING

_TEMPLATE = (
    "Given the following problem, reason and give a final answer to the problem.\n"
    "Problem: {prompt}\n"
    'Your response should end with "The final answer is [answer]" where [answer] is the response '
    "to the problem."
)

BENCHMARK = Benchmark(
    REASONING,
    hub=("openai/gsm8k", "main", "test"),
    files=("gsm8k_test.jsonl",),
    answer="answer",
    template=_TEMPLATE,
    style="gsm8k",
    paper=PaperColumn("gsm8k", "GSM8K", "GSM8K"),
    questions=1319,
)
