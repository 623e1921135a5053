"""What a start will take, said before anything is sampled, by the arithmetic of `thinksafe plan`.

Nothing is compiled, so that it takes no time. The work is what a run may need at most: every
attempt, every answer as long as it may be, up to what a plan assumes. The hours are those of that
work at the roofline, without most messages between devices.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from thinksafe_jax.config import SAMPLED, OnPolicyConfig, Recipe, SynthesisConfig
from thinksafe_jax.data import HARMFUL, REASONING
from thinksafe_jax.planning.evaluation_plan import (
    TIMES,
    answer_tokens,
    asked_held_out,
    held_out,
)
from thinksafe_jax.planning.loop_plan import as_dataset, rollouts_of
from thinksafe_jax.planning.memory import cache_dtype
from thinksafe_jax.planning.roofline import bound_of, decode_roofline, prefill_cost
from thinksafe_jax.planning.stage_plans import Assumed
from thinksafe_jax.planning.workload import ONE_DEVICE, ConfigOf, Workload, workload_flops
from thinksafe_jax.sharding import MeshConfig, Topology


@dataclass(frozen=True)
class ExpectedWork:
    """All stages of a run, answers as long as a plan assumes or as they may be at most.

    Attributes:
        responses, answers: to the prompts of training, every attempt needed; of both evaluations.
        heldout: answers to prompts held out of training, before and after it.
        tokens: of all of them.
        flops: of sampling, judging and training.
        hours: at the roofline, without what servers do; None where no chip is given.
    """

    responses: int
    answers: int
    heldout: int
    tokens: int
    flops: float
    hours: float | None

    def text(self, what: str, machine: str) -> str:
        """One line.

        Args:
            what: "the trial" or "the run".
            machine: what the hours are on.
        """
        hours = "" if self.hours is None else f", about {_duration(self.hours)} on {machine}"
        heldout = f" and {self.heldout:,} to held-out prompts" if self.heldout else ""
        return (
            f"{what} in all: up to {self.responses:,} responses and {self.answers:,} answers of "
            f"the evaluations{heldout}, about {self.tokens:,} tokens, {self.flops:.1e} FLOPs{hours}"
        )


def _duration(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{max(0.1, 60 * hours):.1f} min"


def expected_work(
    recipe: Recipe,
    prompts: int,
    questions: Mapping[str, int],
    prompt_tokens: int,
    config_of: ConfigOf,
    machine: MeshConfig | Topology | None = None,
) -> ExpectedWork:
    """What a run takes whose prompts and questions are counted.

    Args:
        prompts: of the synthesis.
        questions: {kind: answers of one evaluation}.
        prompt_tokens: of a prompt, on average.
        config_of: the facts of a model by its name.
        machine: the mesh, or the one device that does all; None leaves the hours out.
    """
    training = _training_work(recipe, prompts, prompt_tokens)
    topology = machine.topology if isinstance(machine, MeshConfig) else machine
    heldout = TIMES * asked_held_out(recipe, prompts, topology)
    evaluation = _evaluation_work(recipe, questions, heldout, prompt_tokens)
    # the student answers, the judge judges, nothing is trained
    asked = replace(
        recipe, guard=recipe.judging, on_policy=OnPolicyConfig(), synthesis=SynthesisConfig()
    )
    of_training = workload_flops(recipe, training, config_of)
    of_evaluation = workload_flops(asked, evaluation, config_of)
    hours = None
    if machine is not None and topology is not None:
        generator = recipe.synthesis.teacher.model or recipe.student.model
        seconds = _sampling_seconds(recipe, recipe.student.model, evaluation, config_of, machine)
        if not recipe.on_policy.server.url:
            seconds += _sampling_seconds(recipe, generator, training, config_of, machine)
        flops = [
            workload_flops(of, work, config_of, served=False)
            for of, work in ((recipe, training), (asked, evaluation))
        ]
        read = sum(of["guard"] + of["train"] for of in flops)
        hours = (seconds + read / (topology.chips * topology.peak_flops)) / 3600
    return ExpectedWork(
        training.rows,
        evaluation.rows - heldout,
        heldout,
        training.sampled_tokens + evaluation.sampled_tokens,
        sum(of_training.values()) + sum(of_evaluation.values()),
        hours,
    )


def _training_work(recipe: Recipe, prompts: int, prompt_tokens: int) -> Workload:
    """Until the adapter is trained: every attempt is needed, and every prompt's row is kept."""
    loop = bool(recipe.on_policy.method)
    rows = rollouts_of(recipe, prompts) if loop else prompts * recipe.synthesis.attempts
    recipe = as_dataset(recipe) if loop else recipe
    rows = rows if loop or recipe.synthesis.method in SAMPLED else 0
    response = min(Assumed.response_tokens, recipe.synthesis.sampling.max_new_tokens)
    trained = recipe.training.epochs * (rows if loop else prompts - held_out(recipe, prompts))
    length = min(prompt_tokens + response, recipe.training.max_length)
    return Workload(rows, rows * prompt_tokens, rows * response, rows, trained * length, trained)


def _evaluation_work(
    recipe: Recipe, questions: Mapping[str, int], heldout: int, prompt_tokens: int
) -> Workload:
    """Both evaluations, and as many answers to held-out prompts, which no guard judges."""
    cfg = recipe.evaluation
    rows = TIMES * sum(questions.values()) + heldout
    tokens = heldout * answer_tokens(cfg, HARMFUL, Assumed.response_tokens)
    tokens += sum(
        TIMES * count * answer_tokens(cfg, kind, Assumed.response_tokens)
        for kind, count in questions.items()
    )
    judged = sum(count for kind, count in questions.items() if kind != REASONING)
    return Workload(rows, rows * prompt_tokens, tokens, TIMES * judged * len(cfg.scopes), 0, 0)


def _sampling_seconds(
    recipe: Recipe,
    model: str,
    work: Workload,
    config_of: ConfigOf,
    machine: MeshConfig | Topology,
) -> float:
    """Of all prompts and sampled tokens at their rooflines, every slot filled."""
    if not work.sampled_tokens:
        return 0.0
    cfg = config_of(model)
    if isinstance(machine, MeshConfig):
        phase, topology = machine.generate.for_model(cfg), machine.topology
    else:
        phase, topology = ONE_DEVICE, machine
    source = recipe.synthesis.teacher if model != recipe.student.model else recipe.student
    prompt = round(work.prompt_tokens / work.rows)
    context = prompt + round(work.sampled_tokens / work.rows / 2)
    dtype, stored = source.dtype, cache_dtype(recipe.engine.kv_dtype, source.dtype)
    decode = decode_roofline(cfg, phase, topology, recipe.engine.slots, context, dtype, stored)
    prefill = bound_of(prefill_cost(cfg, phase, prompt, dtype, stored), 0, topology).seconds
    prefills = work.rows * prefill / decode.replicas
    return work.sampled_tokens / decode.tokens_per_second + prefills
