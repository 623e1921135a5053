"""Who answers: the student as it was and as it was trained, in one sampler that holds it once.

    base weights ──► engine ──► before      the adapter is switched off
                       ▲
    adapter  ──────────┴─────► after        the adapter is applied, apart from the weights

After full fine-tuning there are two sets of weights, which the engine exchanges.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from thinksafe_jax.config import (
    EngineConfig,
    ModelSource,
    Recipe,
    SamplingConfig,
    check_limits,
)
from thinksafe_jax.errors import InputError
from thinksafe_jax.models import LoraConfig, unstack_layers
from thinksafe_jax.pipeline import Session, exported
from thinksafe_jax.runs import begun_recipe, data_folder
from thinksafe_jax.sampling import Completion, Engine, Request
from thinksafe_jax.sharding import load_mesh
from thinksafe_jax.storage import is_url, open_store, run_folder, shown, store_errors
from thinksafe_jax.tokenizer import ChatTokenizer
from thinksafe_jax.weights import import_adapter, load_params

log = logging.getLogger(__name__)
Watch = Callable[[str, int], None]  # text and tokens of an answer that is being written
_CONTEXT = 16_384  # tokens of a conversation, where neither user, run nor model say otherwise


@dataclass(frozen=True)
class ChatModel:
    """What is talked with.

    Attributes:
        recipe: student, mesh and sampler; `evaluation.sampling` has the options of its answers.
        tuned: a PEFT adapter, or the folder of a merged checkpoint; None: the student alone.
        revisions: file of the run that keeps the student's commit.
    """

    recipe: Recipe
    tuned: Path | None = None
    revisions: Path | None = None

    @property
    def sampling(self) -> SamplingConfig:
        """Options of every answer, where the user gives no others."""
        return self.recipe.evaluation.sampling

    def changed(self, dtype: str | None, mesh: str | None, seed: int | None) -> "ChatModel":
        """With another dtype of the weights, mesh or seed; None leaves it as it is.

        Raises:
            ConfigError: a dtype that is none.
        """
        recipe = self.recipe
        student = replace(recipe.student, dtype=dtype or recipe.student.dtype)
        check_limits(student, "student")
        seed = recipe.seed if seed is None else seed
        recipe = replace(recipe, student=student, mesh=mesh or recipe.mesh, seed=seed)
        return replace(self, recipe=recipe)

    def with_sampling(self, **options: float) -> "ChatModel":
        """With options of `SamplingConfig` in place of its own.

        Raises:
            ConfigError: one is out of its range.
        """
        sampling = replace(self.sampling, **options)
        evaluation = replace(self.recipe.evaluation, sampling=sampling)
        return replace(self, recipe=replace(self.recipe, evaluation=evaluation))


def is_run(target: str) -> bool:
    """Whether a name is a run directory, on a disk or in a bucket, and not a model."""
    if not is_url(target):
        return (Path(target) / "config.yaml").exists()
    with store_errors(target):
        filesystem, root = open_store(target)
        return bool(filesystem.exists(f"{root}/config.yaml"))


def run_of(target: str, adapter: Path | None = None) -> ChatModel:
    """The student of a run directory, and what training made of it.

    Args:
        adapter: in place of the run's own.

    Raises:
        InputError: nothing has been trained there yet.
    """
    folder = run_folder(target)
    recipe = begun_recipe(folder)
    tuned = adapter or exported(folder)
    if not tuned.exists():
        raise InputError(
            f"{shown(folder)}: nothing is exported there yet (no adapter/, no merged/); finish it "
            f"with `thinksafe run`, or talk with the untouched student: thinksafe chat "
            f"{recipe.student.model}"
        )
    return ChatModel(recipe, tuned, data_folder(folder) / "models.json")


def model_of(name: str, adapter: Path | None = None, revision: str | None = None) -> ChatModel:
    """A model by its name, see `resolve_model`, and a PEFT adapter on it."""
    return ChatModel(Recipe(name="chat", student=ModelSource(name, revision)), adapter)


class StudentSides:
    """Answers before and after training, each with its own conversation.

    Args:
        model: what is talked with.
        context: tokens of a conversation at most; default 16,384, or the run's where it has more,
            and never more than the model's.

    Attributes:
        names: of the sides, in order: before and after, or one where nothing was tuned.
        max_length: tokens of a conversation, the answer included.

    Raises:
        ConfigError, InputError, EnvironmentFault: model, mesh or adapter cannot be used.
    """

    def __init__(self, model: ChatModel, context: int | None = None):
        mesh = _mesh_here(model.recipe.mesh)
        session = Session(replace(model.recipe, mesh=mesh), model.revisions)
        self.tokenizer: ChatTokenizer = session.tokenizer
        weights, lora = session.weights.for_sampling(), None
        adapter = None
        if model.tuned is not None and model.tuned.name != "merged":
            adapter, lora = import_adapter(model.tuned, session.cfg, model.recipe.student.model)
        longest = context or max(model.recipe.engine.max_length or 0, _CONTEXT)
        self._engine = _engine(session, longest, lora)
        self.max_length = self._engine.max_length
        self._choose: dict[str, Callable[[], None]] = {"answer": lambda: None}
        if adapter is not None:
            self._choose = _by_turns(self._engine.update_adapter, None, adapter)
        elif model.tuned is not None:
            shardings = session.generation_mesh and session.generation_mesh.param_shardings()
            dtype = jnp.dtype(model.recipe.student.dtype)
            tuned = unstack_layers(load_params(model.tuned, session.cfg, dtype, shardings))
            self._choose = _by_turns(self._engine.update, weights, tuned)
        self.names = tuple(self._choose)

    def answer(
        self,
        side: str,
        messages: Sequence[Mapping[str, str]],
        sampling: SamplingConfig,
        turn: str,
        watch: Watch | None = None,
    ) -> tuple[str, Completion]:
        """(text, completion) of what a side says next.

        Args:
            side: one of `names`.
            messages: the conversation, {"role": ..., "content": ...} each.
            turn: names the draw: both sides draw with the same random numbers in the same turn.
            watch: called after every window of the sampler with what is written so far.

        Raises:
            InputError: the conversation is too long, or the chat template refuses it.
        """
        ids = self.tokenizer.conversation_ids(messages)
        room = self.max_length - len(ids)
        if room < 1:
            raise InputError(
                f"the conversation has {len(ids):,} tokens, and {self.max_length:,} is the most "
                "with the answer: begin a new one with /reset, or start with a larger --context"
            )
        cut = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, room))
        self._choose[side]()

        def look(tokens: Sequence[int], seen: int) -> None:
            """Ends nothing: a request is asked for its end in every window, so it may look."""
            written = [token for token in tokens if token not in self.tokenizer.eos_ids]
            if watch is not None:
                watch(self.tokenizer.decode(written), len(written))

        (done,) = self._engine.generate([Request(turn, ids, cut, stop=watch and look)])
        return self.tokenizer.decode(done.token_ids), done


def _by_turns(update: Callable[[Any], None], before: Any, after: Any) -> dict:
    """{side: what makes the engine that side}."""
    return {"before": partial(update, before), "after": partial(update, after)}


def _engine(session: Session, longest: int, lora: LoraConfig | None) -> Engine:
    """A sampler of one row, which is all that a conversation needs."""
    shape: EngineConfig = session.recipe.engine
    return Engine(
        session.cfg,
        session.weights.for_sampling(),
        replace(shape, slots=1, pool_tokens=None, max_length=longest),
        mesh=session.generation_mesh,
        eos_ids=session.tokenizer.eos_ids,
        seed=session.recipe.seed,
        lora=lora,
    )


def _mesh_here(name: str | None) -> str | None:
    """The mesh where this machine has devices for it; a run of a pod may be talked with at home.

    Raises:
        ConfigError: there is no such mesh.
    """
    if name is None:
        return None
    chips, here = load_mesh(name).topology.chips, jax.device_count()
    if chips <= here:
        return name
    log.warning("mesh %s has %d chips, here are %d: one device answers", name, chips, here)
    return None
