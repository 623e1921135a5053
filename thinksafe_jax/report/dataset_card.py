"""The dataset's card: README.md with YAML front matter, as the Hub reads it."""

import html
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thinksafe_jax.synthesis import Counts, DatasetFacts, Lengths, RefusalCounts

_WARNING = (
    "**Warning.** The prompts labelled harmful ask for things that hurt people. The rows are meant "
    "for training and measuring refusals, and for nothing else."
)
_LABELS = {True: "safe, as the guard said", False: "unjudged"}
_NOT_SAMPLED = {
    "direct-refusal": "Every response is the same fixed refusal (the DirectRefusal baseline); no "
    "guard was asked.",
    "safepath": "Every response is the first line of a thought, which training does not end (the "
    "SafePath baseline); no guard was asked.",
    "external": "The responses were written by others and taken as they are; no guard was asked.",
}
_USE = (
    "**Intended use.** Training and studying the safety of reasoning models. The rows show what "
    "one model under one guard answers; they are no policy, no benchmark and no advice, and the "
    "harmful prompts among them must not reach people as suggestions."
)
_TRIAL = (
    "**A trial.** A few prompts of each kind, sampled to look whether all works; not a dataset to "
    "train on."
)
_WEAK = (
    "**The guard is weak.** It looks for refusal phrases and understands nothing; read its "
    "verdicts as a rough sieve."
)


def card_of_dataset(
    facts: "DatasetFacts",
    counts: "Counts",
    lengths: "Lengths",
    refusals: "Mapping[str, RefusalCounts] | None" = None,
) -> str:
    """Markdown of dataset/README.md; names and paths from the recipe are escaped."""
    parts = [
        _front_matter(facts, counts),
        f"# {escape(facts.name or 'dataset')}: safety data",
        _WARNING,
        _origin(facts),
        *([_TRIAL] if facts.trial else []),
        *([_WEAK] if facts.weak_guard else []),
        "## Rows",
        _counts_table(counts),
        *([_verdicts(counts)] if facts.guarded else []),
        *([_refusals(refusals, facts.benign_refusals)] if refusals else []),
        "### Lengths",
        _lengths_table(lengths),
        _USE,
        "## How they were made",
        _facts_table(facts),
        "## Columns",
        "`id`, `instruction` (the original prompt), `response`, `prompt_label` (harmful or "
        f"benign), `response_label` ({_LABELS[facts.guarded]}), `finish_reason` (stop, or length "
        "where the response was cut).",
        "## Licence",
        "The prompts keep the licences of their sources, named above; what a model wrote falls "
        "under that model's licence, and the guard's licence may ask to be named too. Check all "
        "three before you publish the rows.",
    ]
    return "\n\n".join(parts) + "\n"


def _origin(facts: "DatasetFacts") -> str:
    if not facts.guarded:
        return _NOT_SAMPLED[facts.method]
    teacher = f"by {escape(facts.teacher)}, a teacher, and not by the student"
    return (
        f"The responses were written {teacher if facts.teacher else 'by the student itself'}, and "
        "accepted by a guard. Guards err: expect some unsafe text among the rows. The prompts are "
        "the original ones; the steering text, which harmful prompts wore while sampling, is not "
        "in the data."
    )


def escape(value: object) -> str:
    """Text that shows as itself in Markdown tables and paragraphs, on one line."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", str(value))
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", html.escape(text))


def _front_matter(facts: "DatasetFacts", counts: "Counts") -> str:
    from huggingface_hub import DatasetCardData

    rows = sum(count.accepted for count in counts.values())
    data = DatasetCardData(
        pretty_name=facts.name or "thinksafe dataset",
        language=["en"],
        task_categories=["text-generation"],
        tags=["safety", "refusal", "reasoning", "synthetic", "thinksafe", "not-for-all-audiences"],
        size_categories=[_size_category(rows)],
        configs=[{"config_name": "default", "data_files": "data/*.parquet"}],
    )
    return f"---\n{data.to_yaml()}\n---"


def _size_category(rows: int) -> str:
    steps = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K")]
    return next((name for limit, name in steps if rows < limit), "100K<n<1M")


def _counts_table(counts: "Counts") -> str:
    lines = [
        "| prompts | sampled | accepted | accepted at attempt | never accepted, by reason |",
        "|---|---:|---:|---|---|",
    ]
    for label, count in counts.items():
        dropped = ", ".join(f"{escape(reason)} {n}" for reason, n in count.dropped.items())
        at = ", ".join(f"{number}: {n}" for number, n in count.accepted_at.items())
        lines.append(
            f"| {escape(label)} | {count.sampled} | {count.accepted} | {at or 'none'} | "
            f"{dropped or 'none'} |"
        )
    return "\n".join(lines)


def _verdicts(counts: "Counts") -> str:
    verdicts = "; ".join(
        f"{escape(label)} {n['judged']} ({n['marked']} marked, {n['truncated']} cut)"
        for label, n in ((label, count.verdicts) for label, count in counts.items())
    )
    return (
        f"Verdicts over all attempts: {verdicts}. Marked: a text spells control tokens or lines of "
        "the guard's template, which reach the guard as plain text. Cut: the beginning of the "
        "response did not fit the guard."
    )


_REFUSALS = {
    "keep": "They are kept, as in the paper",
    "drop": "Others were left out",
    "retry": "Prompts that were refused were asked again",
}


def _refusals(refusals: "Mapping[str, RefusalCounts]", setting: str) -> str:
    lines = [
        "### Refusals among benign rows",
        "",
        "To the guard a refusal is safe; training on refusals of harmless prompts teaches "
        f"over-refusal. {_REFUSALS[setting]} (`synthesis.benign_refusals: {setting}`).",
        "",
        "| source | rows | refuse | share | prompts left out |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {escape(name)} | {c.rows} | {c.refusals} | {c.share:.1%} | {c.left_out} |"
        for name, c in refusals.items()
    ]
    return "\n".join(lines)


def _lengths_table(lengths: "Lengths") -> str:
    """A histogram of the responses' tokens, a row a bin and a column a label."""
    labels = sorted(lengths)
    ends = sorted({end for tally in lengths.values() for end in tally}, key=lambda end: end or 1e9)
    lines = [f"| tokens | {' | '.join(map(escape, labels))} |", "|---|" + "---:|" * len(labels)]
    for end in ends:
        cells = " | ".join(str(lengths[label][end]) for label in labels)
        lines.append(f"| {f'up to {end}' if end else 'more'} | {cells} |")
    return "\n".join(lines)


def _facts_table(facts: "DatasetFacts") -> str:
    rows: dict[str, Any] = {
        "method": facts.method,
        "student": facts.student,
        **({"teacher": facts.teacher} if facts.teacher else {}),
        "guard": facts.guard,
        "guard's prompt (hash)": facts.guard_template or "none",
        "steering of harmful prompts": facts.steering,
        "attempts": "; ".join(facts.ladder) or "1",
        "reasoning": facts.reasoning,
        "reasoning of harmful rows": facts.harmful_reasoning,
        "sampling": _settings(facts.sampling) or "nothing was sampled",
        **rounded_cache(facts.kv_dtype),
        "seed": facts.seed,
    }
    lines = ["| | |", "|---|---|"]
    lines += [f"| {name} | {escape(value)} |" for name, value in rows.items()]
    lines += [
        f"| source | {escape(path)} (sha256 {digest}) |" for path, digest in facts.sources.items()
    ]
    lines += [f"| commit | {escape(name)} at {sha} |" for name, sha in facts.commits.items()]
    return "\n".join(lines)


def rounded_cache(kv_dtype: str) -> dict[str, str]:
    """The line of a card about `engine.kv_dtype`; none where it is the model's."""
    if kv_dtype == "model":
        return {}
    text = f"{kv_dtype}, rounded: responses are not drawn from the distribution of the model itself"
    return {"keys and values while sampling": text}


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
