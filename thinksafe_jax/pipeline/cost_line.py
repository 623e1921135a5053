"""What a run will take, in one line, before anything is sampled."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

import jax

from thinksafe_jax.config import Recipe
from thinksafe_jax.data import Prompt
from thinksafe_jax.errors import ThinkSafeError
from thinksafe_jax.pipeline.model_checks import ModelChecks, ModelFacts
from thinksafe_jax.planning import expected_work
from thinksafe_jax.sharding import MeshConfig, Topology, device_topology

_MEASURED = 32  # prompts that are tokenised, evenly over all of them


def cost_line(
    recipe: Recipe,
    prompts: Sequence[Prompt],
    questions: Mapping[str, int],
    student: ModelFacts,
    models: ModelChecks,
    mesh: MeshConfig | None,
) -> str | None:
    """Answers, tokens, FLOPs and, where the chip is known, hours; None where there are no facts.

    Args:
        prompts: of the synthesis.
        questions: {kind: answers of one evaluation}.
        mesh: the recipe's; None on one device.
    """
    few = prompts[:: -(-len(prompts) // _MEASURED) or 1]
    length = sum(len(student.tokenizer.prompt_ids(prompt.text)) for prompt in few)
    machine, name = _machine(mesh)
    with suppress(ThinkSafeError):  # a served guard's model need not be known here
        work = expected_work(
            recipe, len(prompts), questions, length // max(1, len(few)), models.config_of, machine
        )
        return work.text("the trial" if recipe.trial else "the run", name)
    return None


def _machine(mesh: MeshConfig | None) -> tuple[MeshConfig | Topology | None, str]:
    """(mesh or device, what to call it); no machine where only the CPU computes.

    The facts of a CPU are nominal: no hours follow from them.
    """
    if jax.default_backend() == "cpu":
        return None, ""
    if mesh is not None:
        return mesh, mesh.name
    kind = jax.devices()[0].device_kind
    return device_topology(kind), f"one {kind}"
