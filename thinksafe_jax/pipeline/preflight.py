"""What a run needs, looked for in seconds: nothing expensive starts before all of it is there.

    suites, prompts ─► student, teacher ─► guard, judge ─► mesh ─► context ─► packages ─► disk

Every stage that is not done says what it needs; all that is wrong is told together. No weights are
loaded, and nothing is written but small files of models to the caches that keep them anyway.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import jax

from thinksafe_jax.config import (
    SAMPLED,
    evaluation_samplings,
    sampling_problems,
    synthesis_samplings,
)
from thinksafe_jax.data import Prompt, benchmark_kinds
from thinksafe_jax.errors import ConfigError, InputError
from thinksafe_jax.hosts import current
from thinksafe_jax.on_policy import make_method, needs_guard
from thinksafe_jax.pipeline.cost_line import cost_line
from thinksafe_jax.pipeline.disk_checks import (
    checkpoint_bytes,
    export_bytes,
    require_room,
    samples_bytes,
    size_text,
)
from thinksafe_jax.pipeline.fault_list import FaultList
from thinksafe_jax.pipeline.mesh_advice import mesh_advice
from thinksafe_jax.pipeline.model_checks import ModelChecks, ModelFacts
from thinksafe_jax.pipeline.question_checks import check_prompts, check_questions
from thinksafe_jax.pipeline.rollout_and_train import check_vocabulary
from thinksafe_jax.pipeline.session import Session
from thinksafe_jax.runs import data_folder, finished_stages
from thinksafe_jax.sharding import MeshConfig, load_mesh
from thinksafe_jax.storage import free_bytes, writable_place
from thinksafe_jax.synthesis import attempts, steer
from thinksafe_jax.training import TrainingMesh, require_trackers

log = logging.getLogger(__name__)


def _log_ready(there: str, cost: str | None) -> None:
    log.info("all is there: %s", there)
    if cost is not None:
        log.info("%s", cost)


def preflight(
    session: Session,
    run_dir: Path,
    stages: Sequence[str],
    *,
    keeps: Collection[str] | None = None,
    say: Callable[[str, str | None], None] = _log_ready,
) -> FaultList:
    """Looks for everything that the stages need which are not done yet.

    Args:
        session: of the recipe; it keeps the prompts that are read here.
        run_dir: where they will write; may be absent.
        stages: names of the stages that are wanted.
        keeps: stages whose results this start leaves in place; () of a new run, default all.
        say: takes what is there, where nothing is missing, and what the run will take, if known.

    Returns:
        What is wrong; empty where the run can start.
    """
    done = finished_stages(run_dir)
    todo = set(stages) - (done if keeps is None else done & set(keeps)) - {"report"}
    checks = _Preflight(session, run_dir, todo, new_run=keeps is not None and not keeps)
    if todo:
        checks.look(say)
    return checks.faults


class _Preflight:
    """The checks of one start, in the order of the picture above."""

    def __init__(self, session: Session, run_dir: Path, todo: set[str], *, new_run: bool):
        self.session, self.recipe, self.run_dir, self.todo = session, session.recipe, run_dir, todo
        self.faults, self.prompts = FaultList(), list[Prompt]()
        self.questions: Counter[str] = Counter()  # {kind: answers of one evaluation}
        self.seen: list[str] = []  # what is there, for the line at the end
        self.loop = bool(self.recipe.on_policy.method)
        self.samples = self.recipe.synthesis.method in SAMPLED and not self.loop
        self.mesh = self._mesh()
        revisions = None if new_run else data_folder(run_dir) / "models.json"
        self.models = ModelChecks(revisions, self.mesh, self.faults)

    def look(self, say: Callable[[str, str | None], None]) -> None:
        """Looks for everything; what is wrong is in `faults`."""
        recipe, todo = self.recipe, self.todo
        with self.faults.under("run_dir"):
            writable_place(self.run_dir)
        if "evaluate" in todo:
            pins = self.run_dir / "evaluation/datasets.json"
            self.questions = check_questions(recipe.evaluation, pins, self.faults)
            self.seen.append(f"{self.questions.total():,} answers of each evaluation")
        if "sample" in todo or (self.loop and "train" in todo):
            self.prompts = check_prompts(self.session, self.faults)
            labels = Counter(prompt.label for prompt in self.prompts)
            self.seen += [f"{n:,} {label} prompts" for label, n in labels.items()]
        student = self.models.look("student", recipe.student)
        if student is not None:
            self._check_student(student)
        self._check_generator(student)
        if self._asks_guard(student):
            self.models.guard("guard", recipe.guard)
        if "evaluate" in todo:
            key = "guard" if recipe.judge.kind == "same" else "judge"
            self.models.guard(key, recipe.judging)
        if "train" in todo:
            with self.faults.under():
                require_trackers(recipe.training.trackers)
        if student is not None:
            self._check_disks(student)
        if not self.faults.faults:
            say(", ".join([*self.seen, *self.models.names()]), self._cost(student))
        if recipe.mesh is None and jax.device_count() > 1 and current().first:
            log.warning("%s", mesh_advice(jax.devices()[0].device_kind, jax.device_count()))

    def _cost(self, student: ModelFacts | None) -> str | None:
        """What the run will take, in one line, where all that it counts will be done."""
        all_of_it = {"train", "evaluate"} | (set() if self.loop else {"sample"})
        if student is None or not self.prompts or not current().first or not all_of_it <= self.todo:
            return None
        asked = self.recipe, self.prompts, self.questions
        return cost_line(*asked, student, self.models, self.mesh)

    def _mesh(self) -> MeshConfig | None:
        """The recipe's mesh; None, with its fault noted, where it cannot be read."""
        if self.recipe.mesh is not None:
            with self.faults.under("mesh"):
                return load_mesh(self.recipe.mesh)
        return None

    def _check_student(self, student: ModelFacts) -> None:
        recipe = self.recipe
        self.models.on_mesh("mesh", student.cfg)
        trains = self.todo & {"train", "export"}
        if self.mesh is not None and trains:
            with self.faults.under("mesh"):
                TrainingMesh.of_phase(self.mesh.train, student.cfg)
        samplings = {}
        if "evaluate" in self.todo:
            samplings |= evaluation_samplings(recipe, benchmark_kinds())
        if not recipe.synthesis.teacher.model and (self.prompts or self.loop):
            samplings |= synthesis_samplings(recipe)
        self._check_samplings(samplings, recipe.student.model, student)
        if self.loop and "train" in self.todo:
            self._check_loop(student)

    def _check_loop(self, student: ModelFacts) -> None:
        """The teacher of an on-policy method; its rewards are looked at with the guard."""
        teacher = self.recipe.on_policy.teacher
        if not teacher.model:
            return
        if facts := self.models.look("on_policy.teacher", teacher, speaks=False):
            with self.faults.under("on_policy.teacher"):
                check_vocabulary(
                    self.recipe, (student.folder, student.cfg), (facts.folder, facts.cfg)
                )
            if self.mesh is not None:  # it reads the rows where they are trained on
                with self.faults.under("on_policy.teacher"):
                    TrainingMesh.of_phase(self.mesh.train, facts.cfg)

    def _check_generator(self, student: ModelFacts | None) -> None:
        """The model that answers the prompts: the student, or the teacher of the synthesis."""
        teacher, generator = self.recipe.synthesis.teacher, student
        if teacher.model and self.samples and self.todo & {"sample", "filter"}:
            generator = self.models.look("synthesis.teacher", teacher)
            if generator is not None and "sample" in self.todo:
                self.models.on_mesh("mesh", generator.cfg)
                self._check_samplings(synthesis_samplings(self.recipe), teacher.model, generator)
        if generator is not None and self.prompts and (self.samples or self.loop):
            with self.faults.under("synthesis.prompts"):
                self._check_context(generator)

    def _check_samplings(self, samplings: dict, model: str, facts: ModelFacts) -> None:
        context = self._context(facts)
        for problem in sampling_problems(samplings, model, facts.cfg.vocab_size, context):
            self.faults.note(ConfigError(problem))

    def _context(self, facts: ModelFacts) -> int:
        """Tokens of prompt and response."""
        most = self.recipe.engine.max_length or math.inf
        return int(min(most, facts.cfg.max_position_embeddings))

    def _check_context(self, facts: ModelFacts) -> None:
        """Whether prompts fit beside their responses: the shortest and the longest are tokenised.

        Raises:
            InputError: not even the shortest does, or none has a word.
        """
        recipe, engine = self.recipe, self.recipe.engine
        (new_tokens,) = (s.max_new_tokens for s in synthesis_samplings(recipe).values())
        pool = engine.pool_tokens and engine.pool_tokens // engine.page_size * engine.page_size
        room, what = self._context(facts), "context"
        if pool is not None and pool < room:
            room, what = pool, "KV pool (engine.pool_tokens)"
        steering = "none" if self.loop else attempts(recipe.synthesis)[0].steering

        def tokens(prompt: Prompt) -> int:
            text = prompt.text if self.loop else steer(steering, prompt.text, prompt.label)
            return len(facts.tokenizer.prompt_ids(text))

        by_length = sorted((p for p in self.prompts if p.text.strip()), key=lambda p: len(p.text))
        if not by_length:
            raise InputError(f"all {len(self.prompts):,} prompts are empty: see prompt_column")
        shortest, longest = tokens(by_length[0]), tokens(by_length[-1])
        said = f"{new_tokens:,} new ones do not fit into the {what}, {room:,} tokens"
        if shortest + new_tokens > room:
            raise InputError(
                f"no prompt fits: the shortest has {shortest:,} tokens, which with {said}"
            )
        if longest + new_tokens > room:
            log.warning(
                "the longest prompt has %d tokens, which with %s; such prompts are left out",
                longest, said,
            )  # fmt: skip

    def _asks_guard(self, student: ModelFacts | None) -> bool:
        """Whether a stage before the evaluation asks the guard."""
        recipe = self.recipe
        if self.loop:
            if "train" not in self.todo or student is None:
                return False
            with self.faults.under():  # an unknown reward
                return needs_guard(recipe, make_method(recipe, student.tokenizer))
            return False
        retries = recipe.synthesis.attempts > 1 and recipe.synthesis.method != "rejection"
        return self.samples and ("filter" in self.todo or ("sample" in self.todo and retries))

    def _check_disks(self, student: ModelFacts) -> None:
        needs = self.models.to_fetch()
        written = 0
        if "train" in self.todo:
            folder = self.run_dir / "checkpoints"
            written += checkpoint_bytes(self.recipe, student.cfg, folder)
        if self.todo & {"train", "export"}:
            written += export_bytes(self.recipe, student.cfg)
        needs[self.run_dir] = needs.get(self.run_dir, 0) + written
        with self.faults.under("disk"):
            require_room(needs)
        self.seen.append(f"room on the disk for {size_text(sum(needs.values()))}")
        if not (self.prompts and self.samples):
            return
        cfg = self.recipe.synthesis
        most = samples_bytes(len(self.prompts), cfg.attempts, cfg.sampling.max_new_tokens)
        free = free_bytes(self.run_dir) - needs.get(self.run_dir, 0)
        if most > free:
            log.warning(
                "the samples may take up to %s, if every response is as long as it may be; "
                "%s are free for them", size_text(most), size_text(free),
            )  # fmt: skip
