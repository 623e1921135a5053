"""Searches a mesh for the best rule tables of a model: proposed, ranked, and the best compiled.

    proposals --> refused by the rules or by memory, counted by reason
              --> ranked by the roofline with estimated messages   (milliseconds each)
              --> the first ones compiled, up to the budget        (seconds; minutes for TPUs)
              --> ranked by what compiling says

Generation is ranked by its decode step, where nearly all of its time goes, training by its step.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from thinksafe_jax.models import ModelConfig
from thinksafe_jax.planning.estimate import train_sent, train_temporaries
from thinksafe_jax.planning.memory import Budget, phase_budget
from thinksafe_jax.planning.roofline import Cost, bound_of, decode_cost, decode_sent, train_cost
from thinksafe_jax.planning.search_space import Proposal, proposals
from thinksafe_jax.planning.sweep import sweep
from thinksafe_jax.planning.sweep_best import EQUAL, fitting, rank, rate_per_chip
from thinksafe_jax.planning.sweep_row import decode_slots
from thinksafe_jax.planning.sweep_settings import Combination, Row, SweepSettings
from thinksafe_jax.sharding import MeshConfig, Phase, Topology

PROGRAM = {"generate": "decode", "train": "train"}  # what is compiled for a phase
_LEAST_BATCH = 8  # sequences: a recipe's batch size
OWN = "own"  # the mesh file's own table


@dataclass(frozen=True)
class SearchRequest:
    """What is searched, and how far.

    Attributes:
        model, cfg: what to call the model, and its facts.
        budget: programs that are compiled at most, of both phases together.
        batch: sequences of an optimiser step, which no pass of a table may exceed; None: as many as
            the mesh's own table has, 8 at least.
    """

    model: str
    cfg: ModelConfig
    mesh: MeshConfig
    settings: SweepSettings
    budget: int = 20
    batch: int | None = None

    @property
    def most_sequences(self) -> int:
        """Sequences that a training pass may hold."""
        return self.batch or max(
            _LEAST_BATCH, self.mesh.train.for_model(self.cfg).num_shards("batch")
        )

    def combination(self, kind: str, proposal: Proposal) -> Combination:
        """What a sweep makes a row of."""
        mesh = replace(self.mesh, **{kind: proposal.phase})
        return Combination(self.model, self.cfg, proposal.name, mesh, PROGRAM[kind])


@dataclass
class PhaseSearch:
    """What came of one phase.

    Attributes:
        proposed: tables that were looked at, the mesh's own among them.
        refused: reason -> how many tables; each reason is one of theirs, with its numbers.
        rows: of the compiled programs, as a sweep has them, in the order of the estimates.
        tables: name -> the table, of these rows.
        cannot_beat: tables that were not compiled, since even without messages they are slower than
            the best two.
        over_budget: tables that were not compiled, since the budget was used up.
    """

    kind: str
    proposed: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    rows: list[Row] = field(default_factory=list)
    tables: dict[str, Phase] = field(default_factory=dict)
    cannot_beat: int = 0
    over_budget: int = 0

    @property
    def ranked(self) -> list[Row]:
        """Compiled programs that fit, the best one first."""
        return sorted(fitting(self.rows), key=rank)


@dataclass(frozen=True)
class _Candidate:
    """A table that the rules and the memory admit.

    Attributes:
        estimate: the columns of a row by which rows are ranked.
        fits: as far as is known without compiling.
    """

    proposal: Proposal
    estimate: Row
    fits: bool

    @property
    def order(self) -> tuple:
        """What is compiled first: the mesh's own table, then by the estimate."""
        return self.proposal.name != OWN, not self.fits, *rank(self.estimate)

    @property
    def best_rate(self) -> float:
        """Tokens a second and chip if no message took time: no program of it is faster."""
        busy = max(self.estimate["compute_seconds"], self.estimate["memory_seconds"])
        return rate_per_chip(self.estimate) * self.estimate["roofline_seconds"] / busy


def search(
    request: SearchRequest, out: Path | None, report: Callable[[Row], None] = lambda row: None
) -> dict[str, PhaseSearch]:
    """Both phases, generate and train; half of the budget each, or what the other does not need.

    Args:
        out: as `sweep` takes it: rows that stand there already are not compiled again.
        report: called with each row as it is done.
    """
    results = {kind: PhaseSearch(kind) for kind in ("generate", "train")}
    candidates = {kind: _candidates(request, result) for kind, result in results.items()}
    for kind, result in results.items():
        others = 0 if kind == "train" else len(candidates["train"])
        used = sum(len(done.rows) for done in results.values())
        half = request.budget // 2 if others else 0
        budget = request.budget - used - min(others, half)

        def keep(row: Row, result: PhaseSearch = result) -> None:
            result.rows.append(row)
            report(row)

        chosen = _chosen(request, result, candidates[kind], budget)
        sweep(chosen, request.settings, out, keep)
    return results


def _chosen(
    request: SearchRequest, result: PhaseSearch, candidates: Iterable[_Candidate], budget: int
) -> Iterator[Combination]:
    """The candidates to compile, each given when the rows of those before are in."""
    for candidate in candidates:
        rates = sorted(map(rate_per_chip, fitting(result.rows)))
        runner_up = rates[-2] if len(rates) > 1 else 0.0
        if candidate.best_rate < (1 - EQUAL) * runner_up:
            result.cannot_beat += 1
        elif len(result.rows) >= budget:
            result.over_budget += 1
        else:
            result.tables[candidate.proposal.name] = candidate.proposal.phase
            yield request.combination(result.kind, candidate.proposal)


def _candidates(request: SearchRequest, result: PhaseSearch) -> list[_Candidate]:
    """What is admitted, in the order in which it is compiled; what is not is counted."""
    cfg, topology = request.cfg, request.mesh.topology
    settings = replace(request.settings, sizes=request.settings.sizes.capped(cfg))
    section = request.mesh.train if result.kind == "train" else request.mesh.generate
    candidates, seen = [], set()
    for proposal in (Proposal(OWN, section), *proposals(result.kind, topology)):
        divided = proposal.phase.for_model(cfg)
        if (layout := _layout(divided)) in seen:
            continue
        seen.add(layout)
        result.proposed += 1
        budget = phase_budget(result.kind, proposal.phase, cfg, topology, settings.sizes)
        reason = _reason(request, result.kind, divided, budget, settings)
        if reason:
            result.refused[_first_alike(result.refused, reason)] += 1
            continue
        estimate = _train_estimate if result.kind == "train" else _decode_estimate
        row = estimate(cfg, divided, topology, settings, budget)
        candidates.append(_Candidate(proposal, row, row["peak_bytes"] <= topology.hbm_bytes))
    return sorted(candidates, key=lambda candidate: candidate.order)


def _layout(phase: Phase) -> tuple:
    """Where arrays lie, whatever the axes are called: axes of size 1 are none."""
    sizes = {name: size for name, size in phase.axes.items() if size > 1}
    place = {name: number for number, name in enumerate(sizes)}
    rules = {k: tuple(place[n] for n in names if n in place) for k, names in phase.rules.items()}
    dcn = tuple((place[n], parts) for n, parts in phase.dcn.items() if parts > 1)
    return tuple(sizes.values()), tuple(sorted(rules.items())), dcn


def _reason(
    request: SearchRequest, kind: str, phase: Phase, budget: Budget, settings: SweepSettings
) -> str:
    """Why a table is refused; "" where it is not."""
    if phase.slices != request.mesh.topology.slices:
        return f"no axis of rows divides over the {request.mesh.topology.slices} slices"
    if budget.problems:
        return budget.problems[0]
    held = sum(budget.bytes.values()) / 1e9
    if kind == "train":
        sequences = phase.num_shards("batch")
        if sequences > request.most_sequences:
            most = f"an optimiser step {request.most_sequences} (--batch)"
            return f"a pass would hold {sequences} sequences, {most}"
        if not budget.fits:
            return f"weights, adapter and optimiser of {held:.1f} GB a chip do not fit"
    elif not budget.fits and settings.slots is None:
        tokens = f"no room for a row of {settings.sizes.context:,} tokens"
        return f"beside weights of {held:.1f} GB a chip there is {tokens}"
    return ""


def _first_alike(refused: Counter[str], reason: str) -> str:
    """The reason that differs from this one in its numbers only, or this one."""
    return next((known for known in refused if _words(known) == _words(reason)), reason)


def _words(reason: str) -> str:
    """A reason without its numbers, and without the tensor of which it speaks."""
    return re.sub(r"\d[\d.,]*", "", reason.partition(" (layers")[0])


def _decode_estimate(
    cfg: ModelConfig, phase: Phase, topology: Topology, settings: SweepSettings, budget: Budget
) -> Row:
    sizes = settings.sizes
    slots = decode_slots(settings, budget.pool_tokens)
    cost = decode_cost(cfg, phase, slots, sizes.mean_context, sizes.dtype, sizes.cache_dtype)
    sent = decode_sent(cfg, phase, slots, sizes.itemsize)
    peak = budget.bytes["weights"] + budget.pool_tokens * budget.kv_bytes_per_token
    return _estimate(phase.num_shards("batch"), (slots, slots), cost, sent, peak, topology)


def _train_estimate(
    cfg: ModelConfig, phase: Phase, topology: Topology, settings: SweepSettings, budget: Budget
) -> Row:
    sizes, shards = settings.sizes, phase.num_shards("batch")
    length = min(sizes.training.max_length, cfg.max_position_embeddings)
    rows = max(1, sizes.training.micro_batch_size // shards)
    cost = train_cost(cfg, phase, rows, length, sizes.dtype)
    positions = rows * length // phase.num_shards("sequence")
    sent = train_sent(cfg, phase, positions, sizes.itemsize)
    peak = sum(budget.bytes.values()) - budget.bytes["gradients"]
    peak += train_temporaries(cfg, phase, positions, sizes.itemsize)
    of_pass = shards * rows, shards * rows * length
    return _estimate(1, of_pass, cost, sent, peak, topology)


def _estimate(
    programs: int,
    rows_and_tokens: tuple[int, int],
    cost: Cost,
    sent: float,
    peak: float,
    topology: Topology,
) -> Row:
    """The columns of a sweep's row by which it is ranked."""
    bound = bound_of(cost, sent, topology)
    rows, tokens = rows_and_tokens
    return {
        "programs": programs,
        "rows": rows,
        "chips": topology.chips,
        "peak_bytes": max(1, round(peak)),
        "compute_seconds": bound.compute,
        "memory_seconds": bound.memory,
        "network_seconds": bound.network,
        "roofline_seconds": bound.seconds,
        "tokens_per_second": programs * tokens / bound.seconds,
    }
