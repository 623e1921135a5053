"""Draws for the projection: the student with and without steering, at temperature 1, judged."""

from collections.abc import Callable, Sequence

from thinksafe_jax.analysis.likelihood import Scored, log_probabilities
from thinksafe_jax.analysis.projection import Draws
from thinksafe_jax.config import SamplingConfig
from thinksafe_jax.data import Prompt, load_prompts
from thinksafe_jax.guards import Exchange
from thinksafe_jax.pipeline import Session
from thinksafe_jax.sampling import Completion, Request
from thinksafe_jax.synthesis import drop_reason, steer

Accept = Callable[[Sequence[tuple[Prompt, str, str]]], list[bool]]  # (prompt, response, finish)


def prompts_of(session: Session, per_label: int) -> list[Prompt]:
    """The first prompts of each label of the recipe's synthesis sources."""
    prompts = load_prompts(session.recipe.synthesis.prompts, require_label=True)
    labels = dict.fromkeys(p.label for p in prompts)
    return [p for label in labels for p in [q for q in prompts if q.label == label][:per_label]]


def draw(
    session: Session, prompts: Sequence[Prompt], samples: int, accept: Accept | None = None
) -> list[Draws]:
    """`samples` responses a prompt, without steering and with the recipe's.

    Benign prompts are not steered by the method: their source is the student itself, drawn again.

    Args:
        accept: the filter; default the form rules and the recipe's guard.
    """
    cfg = session.recipe.synthesis
    most = cfg.sampling.max_new_tokens
    free = SamplingConfig(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, max_new_tokens=most)
    tokenizer, by_id = session.tokenizer, {p.id: p for p in prompts}
    heads = {
        (kind, p.id): tokenizer.prompt_ids(
            steer(cfg.steering, p.text, p.label) if kind == "source" else p.text
        )
        for p in prompts
        for kind in ("base", "source")
    }
    requests = [
        Request(f"{kind}/{name}", ids, free, sample)
        for (kind, name), ids in heads.items()
        for sample in range(samples)
    ]
    done = sorted(session.engine().generate(requests), key=lambda c: (c.id, c.sample))
    shown = [
        (by_id[c.id.partition("/")[2]], tokenizer.decode(c.token_ids), c.finish_reason)
        for c in done
    ]
    accepted = (accept or guard_filter(session))(shown)
    return [_of_prompt(session, prompt, heads, done, accepted) for prompt in prompts]


def _of_prompt(
    session: Session,
    prompt: Prompt,
    heads: dict[tuple[str, str], list[int]],
    done: Sequence[Completion],
    accepted: Sequence[bool],
) -> Draws:
    drawn = {
        kind: [
            (c, ok) for c, ok in zip(done, accepted, strict=True) if c.id == f"{kind}/{prompt.id}"
        ]
        for kind in ("base", "source")
    }
    kept = [c for c, ok in drawn["source"] if ok]
    source, base = (
        [scored(session, heads[kind, prompt.id], c) for c in kept] for kind in ("source", "base")
    )
    sums = [
        [float(v.sum()) for v in log_probabilities(session.params, session.cfg, rows)]
        for rows in (source, base)
    ]
    flags = ([ok for _, ok in drawn[kind]] for kind in ("base", "source"))
    return Draws(prompt.id, prompt.label, *flags, *sums)


def scored(session: Session, head: Sequence[int], done: Completion) -> Scored:
    """A completion after a prompt, as sampled; its end is a token as well."""
    end = [session.tokenizer.end_of_turn_id] if done.finish_reason == "stop" else []
    return Scored([*head, *done.token_ids, *end], len(head))


def guard_filter(session: Session) -> Accept:
    """The method's filter: well formed, and safe in the guard's word."""
    reasoning = session.recipe.synthesis.reasoning

    def accept(shown: Sequence[tuple[Prompt, str, str]]) -> list[bool]:
        formed = [drop_reason(text, finish, reasoning) is None for _, text, finish in shown]
        asked = [
            Exchange(str(n), prompt.text, text, prompt.label)
            for n, ((prompt, text, _), ok) in enumerate(zip(shown, formed, strict=True))
            if ok
        ]
        safe = {v.id for v in session.guard.judge(asked) if v.verdict == "safe"}
        return [str(n) in safe for n in range(len(shown))]

    return accept
