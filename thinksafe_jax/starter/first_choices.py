"""What a first recipe chooses for a student on a machine: each value with its reason.

Nothing is compiled: sizes are those of the weights and of the cache, by `plan`'s own arithmetic.
"""

from dataclasses import dataclass

from thinksafe_jax.config import named_configs
from thinksafe_jax.errors import ConfigError
from thinksafe_jax.planning import Assumed, Settings, filled_rows, find_model, phase_budget
from thinksafe_jax.sharding import load_mesh
from thinksafe_jax.starter.machine_at_hand import Machine
from thinksafe_jax.starter.student_facts import StudentFacts

# largest first; their licence is Apache-2.0, so that nobody has to ask for access
_GUARDS = ("qwen3guard-gen-8b", "qwen3guard-gen-4b", "qwen3guard-gen-0.6b")
_GUARDS_ON_CPU = _GUARDS[-1:]  # a larger one would take days
_GUARD_SHARE = 0.7  # of a device, for the weights of student and guard; the rest is for its passes
_PROMPT = {True: 312, False: 2048}  # tokens of a prompt, on a CPU and elsewhere
_MOST_SLOTS = {True: 16, False: 256}


@dataclass(frozen=True)
class Chosen:
    """A value and its reason."""

    value: object
    because: str


@dataclass(frozen=True)
class Choices:
    """All that depends on student and machine."""

    dtype: Chosen
    guard_kind: str
    guard_model: str
    guard_because: str
    slots: Chosen
    new_tokens: Chosen
    max_length: Chosen
    micro_batch: Chosen
    learning_rate: Chosen


def choose(student: StudentFacts, machine: Machine, guard: str | None = None) -> Choices:
    """The choices of a first recipe.

    Args:
        guard: KIND or KIND:MODEL; default: the largest Qwen3Guard that fits beside the student.

    Raises:
        ConfigError: the student does not fit on the machine; names ready meshes on which it does.
    """
    new_tokens, longest, because = _lengths(student, machine)
    dtype = _dtype(student, machine, longest)
    slots = _slots(student, machine, str(dtype.value), longest, new_tokens)
    kind, model, guard_because = _guard(student, machine, str(dtype.value), longest, guard)
    return Choices(
        dtype,
        kind,
        model,
        guard_because,
        slots,
        Chosen(new_tokens, because),
        Chosen(
            longest, f"{longest - new_tokens:,} tokens of prompt and {new_tokens:,} of response"
        ),
        _micro_batch(machine),
        _learning_rate(student),
    )


def _lengths(student: StudentFacts, machine: Machine) -> tuple[int, int, str]:
    """(tokens of a response, of prompt and response, reason)."""
    if student.reasons:
        most, because = 16_384, "the paper's; a chain of thought that never ends is left out"
        if machine.on_cpu:
            most, because = 1_024, "short, for a CPU; the paper's is 16,384"
    elif machine.on_cpu:
        most, because = 200, "short, for a CPU: enough to tell a refusal from an answer"
    else:
        most, because = 2_048, "a plain answer is shorter than a chain of thought"
    context, prompt = student.cfg.max_position_embeddings, _PROMPT[machine.on_cpu]
    if context < most + prompt:
        because = f"half of the context of {context:,} tokens; it holds the prompt too"
        return context // 2, context, because
    return most, most + prompt, because


def _budgets(student: StudentFacts, machine: Machine, dtype: str, longest: int):
    settings = Settings(dtype, context=longest).capped(student.cfg)
    phases = (("generate", machine.generate), ("train", machine.train))
    return [phase_budget(n, p, student.cfg, machine.topology, settings) for n, p in phases]


def _dtype(student: StudentFacts, machine: Machine, longest: int) -> Chosen:
    options = {"bfloat16": "as the weights are stored"}
    if machine.on_cpu:
        full = "a CPU computes fastest in it"
        options = {"float32": full, "bfloat16": f"float32 ({full}) does not fit"}
    for dtype, because in options.items():
        if all(budget.fits for budget in _budgets(student, machine, dtype, longest)):
            return Chosen(dtype, because)
    problems = [p for b in _budgets(student, machine, "bfloat16", longest) for p in b.problems]
    if problems:
        raise ConfigError(f"{student.label} on mesh {machine.mesh}: {'; '.join(problems)}")
    weights = 2 * student.parameters / 1e9
    raise ConfigError(
        f"{student.label} does not fit here ({machine.said}): its weights alone are "
        f"{weights:.1f} GB in bfloat16{_elsewhere(student, longest)}"
    )


def _elsewhere(student: StudentFacts, longest: int) -> str:
    """Ready meshes on which it does fit, the three with the fewest chips."""
    fitting = []
    for name in named_configs("mesh"):
        mesh = load_mesh(name)
        topology, settings = mesh.topology, Settings(context=longest).capped(student.cfg)
        phases = (("generate", mesh.generate), ("train", mesh.train))
        if all(phase_budget(n, p, student.cfg, topology, settings).fits for n, p in phases):
            fitting.append((topology.chips, name))
    if not fitting:
        return ""
    names = ", ".join(name for _, name in sorted(fitting)[:3])
    return f". It fits on {names}: name the machine that is to run it, as --mesh {min(fitting)[1]}"


def _slots(
    student: StudentFacts, machine: Machine, dtype: str, longest: int, new_tokens: int
) -> Chosen:
    """A power of two of rows whose cache has room beside the weights."""
    generate, _ = _budgets(student, machine, dtype, longest)
    mean = Assumed().mean_context(new_tokens)
    rows = max(1, filled_rows(generate.pool_tokens, min(mean, longest)))
    most = _MOST_SLOTS[machine.on_cpu]
    slots = min(most, 1 << (rows.bit_length() - 1))
    if slots == most:
        return Chosen(slots, "rows decoded together; the cache has room for them")
    return Chosen(slots, f"rows decoded together; the cache has room for {rows} of a mean length")


def _guard(
    student: StudentFacts, machine: Machine, dtype: str, longest: int, wanted: str | None
) -> tuple[str, str, str]:
    """(kind, model, reason)."""
    if wanted is not None:
        kind, _, model = wanted.partition(":")
        return kind, model, "named by --guard"
    weights = _budgets(student, machine, dtype, longest)[0].bytes["weights"]
    for name in _GUARDS_ON_CPU if machine.on_cpu else _GUARDS:
        label, cfg = find_model(name)
        settings = Settings(context=longest).capped(cfg)
        budget = phase_budget("generate", machine.generate, cfg, machine.topology, settings)
        if budget.problems:
            continue
        both = weights + budget.bytes["weights"]
        if both <= _GUARD_SHARE * machine.topology.hbm_bytes:
            memory = f"{both / 1e9:.1f} of {machine.topology.hbm_bytes / 1e9:.1f} GB a device"
            because = f"the largest of its kind that fits; with the student {memory}"
            return "qwen3guard", f"Qwen/{label}", because
    return "refusal-match", "", "no guard model fits: phrases of refusals, which is weak"


def _micro_batch(machine: Machine) -> Chosen:
    if machine.on_cpu:
        return Chosen(4, "rows of a forward pass, of the longest; fewer need less memory")
    return Chosen(2, "rows of a forward pass, of the longest, as in the recipes of the paper")


def _learning_rate(student: StudentFacts) -> Chosen:
    """The paper's 1e-5 is for 40,000 rows; a trial has few steps."""
    because = "the paper's 1e-5 is for its 40,000 rows; a trial has about 48 steps"
    return Chosen("2.0e-4" if student.parameters < 1e9 else "1.0e-4", because)
