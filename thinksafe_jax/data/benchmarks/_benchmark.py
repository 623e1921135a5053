r"""What a benchmark's file states: where its rows are, which columns mean what, how it is asked."""

from dataclasses import dataclass, field

# SkyThought's prompt for competition mathematics (appendix C)
BOXED = r"Please reason step by step, and put your final answer within \boxed{}. {prompt}"


@dataclass(frozen=True)
class PaperColumn:
    """A benchmark's column in the paper's tables.

    Attributes:
        key: its name in evaluation/published.json.
        title: its heading, as the paper spells it.
        short: its heading on a terminal.
    """

    key: str
    title: str
    short: str


@dataclass(frozen=True)
class Benchmark:
    """The facts of one suite.

    Attributes:
        kind: harmful (attack success), over_refusal (refused harmless prompts), compliance
            (answered unsafe prompts) or reasoning (accuracy).
        hub: (dataset id, configuration, split) on the Hub; None where there is none.
        files: names of the published file.
        prompt: column of the prompt; "" tries `questions.PROMPT_COLUMNS`.
        answer: column of the gold answer; "" for none.
        row_id: column of the id; "" for `id`, else the row's number.
        cluster: column whose equal values belong together; "" for each row by itself.
        filters: rows that are kept, column to accepted values; a row without the column is refused.
        filtered_on_hub: the Hub's configuration holds the kept rows alone, without that column.
        template: how a question is put; {prompt} is replaced once, literally.
        style: math | gsm8k | choice: how the answer is read.
        options: columns of the options, the right one first; they are shuffled into the prompt by
            the row's id. Empty where there are none.
        paper: its column in the paper's tables; None where it has none.
        questions: how many it asks, for plans where its rows are not at hand; 0 where unknown.
    """

    kind: str
    hub: tuple[str, str | None, str] | None = None
    files: tuple[str, ...] = ()
    prompt: str = ""
    answer: str = ""
    row_id: str = ""
    cluster: str = ""
    filters: dict[str, tuple[str, ...]] = field(default_factory=dict)
    filtered_on_hub: bool = False
    template: str = "{prompt}"
    style: str = "math"
    options: tuple[str, ...] = ()
    paper: PaperColumn | None = None
    questions: int = 0
