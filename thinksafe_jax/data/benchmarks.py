r"""The benchmarks by name: where their rows are, which columns mean what, how a question is put.

Prompts of the reasoning benchmarks are SkyThought's, as in the paper (appendix C). Names of files
are those under which the benchmarks are published; `--data DIR` looks for them.
"""

import difflib
from dataclasses import dataclass, field

from thinksafe_jax.errors import ConfigError

HARMFUL, OVER_REFUSAL, COMPLIANCE, REASONING = "harmful", "over_refusal", "compliance", "reasoning"
KINDS = (HARMFUL, OVER_REFUSAL, COMPLIANCE, REASONING)

_BOXED = r"Please reason step by step, and put your final answer within \boxed{}. {prompt}"
_GSM8K = (
    "Given the following problem, reason and give a final answer to the problem.\n"
    "Problem: {prompt}\n"
    'Your response should end with "The final answer is [answer]" where [answer] is the response '
    "to the problem."
)
_GPQA = (
    r"Return your final response within \boxed{} and only include the letter choice "
    "(A, B, C, or D) as your final response. {prompt}"
)
# where a file of the user's own has its prompts, in the order of preference
PROMPT_COLUMNS = (
    "prompt", "question", "problem", "Question", "forbidden_prompt", "Behavior", "adversarial",
    "instruction", "goal",
)  # fmt: skip
OPTIONS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


@dataclass(frozen=True)
class Benchmark:
    """One suite's facts.

    Attributes:
        kind: harmful (attack success), over_refusal (refused harmless prompts), compliance
        (answered
            unsafe prompts), reasoning (accuracy).
        hub: (dataset id, configuration, split) on the Hub; None where there is none.
        files: names of the published file.
        prompt: column of the prompt; "" tries PROMPT_COLUMNS.
        answer, row_id: columns of gold answer and id; "" for none and for the row's number.
        cluster: column whose equal values belong together; "" for each row by itself.
        where: rows kept, column to accepted values.
        template: how a question is put; {prompt} is replaced once, literally.
        style: math | gsm8k | choice: how the answer is read.
        options: the four options are shuffled into the prompt by the row's id.
        paper: its column in the paper's tables.
    """

    kind: str
    hub: tuple[str, str | None, str] | None = None
    files: tuple[str, ...] = ()
    prompt: str = ""
    answer: str = ""
    row_id: str = ""
    cluster: str = ""
    where: dict[str, tuple[str, ...]] = field(default_factory=dict)
    template: str = "{prompt}"
    style: str = "math"
    options: bool = False
    paper: str = ""


_XSTEST = {"hub": ("walledai/XSTest", None, "test"), "files": ("xstest_prompts.csv",)}
_WILD = ("allenai/wildjailbreak", "eval", "train")

BENCHMARKS: dict[str, Benchmark] = {
    # the authors' file: 301 objectives, two prompts each
    "harmbench-602": Benchmark(
        HARMFUL, files=("harmbench.json",), prompt="prompt", cluster="objective", paper="harmbench"
    ),
    "harmbench": Benchmark(
        HARMFUL,
        hub=("walledai/HarmBench", "standard", "train"),
        files=("harmbench_all.csv",),
        where={"FunctionalCategory": ("standard",)},
    ),
    "strongreject": Benchmark(
        HARMFUL,
        hub=("walledai/StrongREJECT", None, "train"),
        files=("strongreject_dataset.csv",),
        paper="strongreject",
    ),
    "wildjailbreak": Benchmark(
        HARMFUL,
        hub=_WILD,
        prompt="adversarial",
        where={"data_type": ("adversarial_harmful",)},
        paper="wildjailbreak",
    ),
    "wildguardtest": Benchmark(
        HARMFUL,
        hub=("allenai/wildguardmix", "wildguardtest", "test"),
        where={"prompt_harm_label": ("harmful",)},
    ),
    "xstest-safe": Benchmark(OVER_REFUSAL, **_XSTEST, where={"label": ("safe",)}, paper="xstest"),
    "xstest-unsafe": Benchmark(COMPLIANCE, **_XSTEST, where={"label": ("unsafe",)}),
    "aime24": Benchmark(
        REASONING,
        hub=("HuggingFaceH4/aime_2024", None, "train"),
        files=("aime24.jsonl",),
        answer="answer",
        template=_BOXED,
        paper="aime24",
    ),
    "gsm8k": Benchmark(
        REASONING,
        hub=("openai/gsm8k", "main", "test"),
        files=("gsm8k_test.jsonl",),
        answer="answer",
        template=_GSM8K,
        style="gsm8k",
        paper="gsm8k",
    ),
    "math500": Benchmark(
        REASONING,
        hub=("HuggingFaceH4/MATH-500", None, "test"),
        files=("math500_test.jsonl",),
        answer="answer",
        template=_BOXED,
        paper="math500",
    ),
    "gpqa": Benchmark(
        REASONING,
        hub=("Idavidrein/gpqa", "gpqa_diamond", "train"),
        files=("gpqa_diamond.csv",),
        answer="Correct Answer",
        row_id="Record ID",
        template=_GPQA,
        style="choice",
        options=True,
        paper="gpqa",
    ),
}  # fmt: skip
GROUPS = {
    "xstest": ("xstest-safe", "xstest-unsafe"),
    "safety": ("harmbench-602", "strongreject", "wildjailbreak", "xstest-safe", "xstest-unsafe"),
    "reasoning": ("aime24", "gsm8k", "math500", "gpqa"),
}


def benchmark(name: str, kind: str = "") -> Benchmark:
    """The benchmark of that name, or a plain one of `kind` for a file of the user's own.

    Raises:
        ConfigError: an unknown name without a kind, or a kind that contradicts the name.
    """
    known = BENCHMARKS.get(name)
    if known is None and kind:
        return Benchmark(kind, answer="answer" if kind == REASONING else "")
    if known is None:
        names = [*BENCHMARKS, *GROUPS]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"no suite {name!r}{hint} (known: {', '.join(names)}; a file of your own needs a kind: "
            "reasoning:NAME=FILE)"
        )
    if kind not in ("", known.kind):
        raise ConfigError(f"suite {name} is of kind {known.kind}, not {kind}")
    return known
