"""What can only be checked once the model is known."""

import dataclasses
import gc
import json
import shutil
import weakref
from pathlib import Path

import fsspec
import jax
import pytest

from tests.hosts.test_group import together
from tests.support import REPOSITORY
from thinksafe_jax.config import load_recipe
from thinksafe_jax.errors import ConfigError, InputError
from thinksafe_jax.pipeline import Session, run_pipeline
from thinksafe_jax.pipeline.session import mesh_hashes
from thinksafe_jax.storage import files as storage
from thinksafe_jax.weights import load_params, resolve_model

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("room", ["synthesis", "evaluation"])
def test_top_k_above_the_vocabulary_is_refused_by_name(room):
    recipe = load_recipe(
        REPOSITORY / "configs/recipes/mini.yaml", [f"{room}.sampling.top_k=200000"]
    )
    with pytest.raises(ConfigError, match=rf"{room}\.sampling\.top_k: 200000 is above .* 1536"):
        Session(recipe).engine()


@pytest.mark.parametrize("room", ["synthesis", "evaluation"])
def test_a_response_that_leaves_no_room_for_a_prompt_is_refused_before_weights_are_read(room):
    """By its key, with the context's length; what the evaluation asks is looked at, too."""
    options = [f"{room}.sampling.max_new_tokens=16384", "engine.max_length=null"]
    session = Session(load_recipe(REPOSITORY / "configs/recipes/mini.yaml", options))
    with pytest.raises(ConfigError, match=rf"{room}\.sampling\.max_new_tokens: 16384 .*, 1024 to"):
        session.engine()
    assert "weights" not in vars(session)


@pytest.mark.parametrize(
    "method", ["synthesis.teacher.model=mini:student", "synthesis.method=direct-refusal"]
)
def test_lengths_of_the_evaluation_are_refused_before_anything_is_sampled(method, tmp_path):
    """Where the student does not sample, they were read after a teacher's hours, or training."""
    options = [method, "evaluation.sampling.max_new_tokens=16384", "engine.max_length=null"]
    options += ["synthesis.attempts=1", "synthesis.ladder=[]"]
    recipe = load_recipe(REPOSITORY / "configs/recipes/mini.yaml", options)
    with pytest.raises(ConfigError, match=r"evaluation\.sampling\.max_new_tokens: 16384 leaves no"):
        run_pipeline(recipe, tmp_path / "run", stages=["sample"])
    assert not list(tmp_path.rglob("part-*.jsonl"))


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ("null", "2 processes train on one mesh over all their 8"),
        ("v5e-16", "phase has 16 devices, the 2 processes have 8"),
    ],
)
def test_several_processes_need_a_mesh_over_all_their_devices(mesh, message):
    """It is said before any model is looked for; this one is nowhere."""
    changes = [f"mesh={mesh}", "student.model=owner/nowhere"]
    recipe = load_recipe(REPOSITORY / "configs/recipes/mini.yaml", changes)
    errors = together(
        lambda group: Session(recipe).check_hosts_agree(group, training=True), count=2
    )
    for error in errors:
        assert isinstance(error, ConfigError) and message in str(error)


def test_hosts_compare_what_their_mesh_files_say(tmp_path):
    """Those of the guards as well, and the order of the axes, but no comments."""
    file = tmp_path / "mesh.yaml"
    file.write_text((REPOSITORY / "configs/mesh/cpu-8.yaml").read_text())
    recipe = load_recipe(REPOSITORY / "configs/recipes/mini.yaml", [f"guard.mesh={file}"])
    ((name, before),) = mesh_hashes(recipe).items()
    assert name == str(file)
    file.write_text("# another comment\n" + file.read_text())
    assert mesh_hashes(recipe) == {name: before}
    file.write_text(file.read_text().replace("data: 2, fsdp: 2,", "fsdp: 2, data: 2,"))
    assert mesh_hashes(recipe)[name] != before


def test_guard_and_teacher_make_room_for_training():
    """D9: on one device as on a mesh, nothing else lies beside the student that is trained."""
    teacher = "synthesis.teacher.model=mini:student"
    session = Session(load_recipe(REPOSITORY / "configs/recipes/mini.yaml", [teacher]))
    assert session.guard is session.judge and session.generator is not session
    others = [weakref.ref(session.guard), weakref.ref(session.generator)]
    session.release_guards()
    assert session.weights.for_training() is session.params
    gc.collect()
    assert [other() for other in others] == [None, None]


def test_the_models_are_loaded_once():
    session = Session(load_recipe(REPOSITORY / "configs/recipes/mini.yaml"))
    assert session.params is session.params
    assert dataclasses.is_dataclass(session.cfg)


def test_the_run_records_the_revision_of_student_and_guard(tmp_path, monkeypatch):
    """Either of them changing under a run is refused."""
    monkeypatch.setenv("THINKSAFE_CACHE", str(tmp_path / "cache"))
    bucket = fsspec.filesystem("memory")
    for role in ("student", "guard"):
        for file in resolve_model(f"mini:{role}").iterdir():
            bucket.pipe(f"/world/{role}/{file.name}", file.read_bytes())
    student, guard = "memory://world/student", "memory://world/guard"
    recipe = load_recipe(
        REPOSITORY / "configs/recipes/mini.yaml",
        [f"student.model={student}", f"guard.model={guard}"],
    )
    revisions = tmp_path / "models.json"
    session = Session(recipe, revisions)
    assert session.guard.name == guard
    assert session.directory.is_dir()
    assert json.loads(revisions.read_text()).keys() == {student, guard}
    bucket.pipe("/world/guard/generation_config.json", b"{}")
    assert Session(recipe, revisions).directory == session.directory
    with pytest.raises(InputError, match="memory://world/guard: its files changed since this run"):
        _ = Session(recipe, revisions).guard
    bucket.store.clear()


class SharedBy:
    """A folder that is brought up to date from another host's, and notes what is sent there."""

    url = "memory://run"

    def __init__(self, folder: Path, other: Path):
        self.folder, self.other, self.sent = folder, other, []
        for path in (folder, other):
            path.mkdir()

    def push(self, path: Path, *, wait: bool = True) -> None:
        self.sent.append(path)

    def pull(self) -> None:
        shutil.copytree(self.other, self.folder, dirs_exist_ok=True)


def test_hosts_that_share_a_bucket_take_the_commits_that_the_first_has_found(tmp_path, monkeypatch):
    """The others see its models.json before their turn, and write none of their own."""
    monkeypatch.setenv("THINKSAFE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "_mounts", {})
    bucket = fsspec.filesystem("memory")
    for file in resolve_model("mini:student").iterdir():
        bucket.pipe(f"/world/student/{file.name}", file.read_bytes())
    changes = ["student.model=memory://world/student"]
    recipe = load_recipe(REPOSITORY / "configs/recipes/mini.yaml", changes)
    first, second = (tmp_path / name for name in "01")
    shared = SharedBy(second, first)
    storage.mount(second, shared)

    def meet(group):
        Session(recipe, tmp_path / str(group.index) / "models.json").check_hosts_agree(
            group, training=False
        )

    assert together(meet, count=2) == [None, None]
    assert (second / "models.json").read_bytes() == (first / "models.json").read_bytes()
    assert shared.sent == []
    bucket.store.clear()


def test_the_judge_is_the_filter_unless_another_is_named():
    from dataclasses import replace

    from tests.report.example_run import recipe
    from thinksafe_jax.config import GuardConfig
    from thinksafe_jax.report.run_files import RunFiles
    from thinksafe_jax.report.summary import _judge

    ours = replace(recipe(), evaluation=replace(recipe().evaluation, judge="guard"))
    other = replace(ours, judge=GuardConfig(kind="refusal-match"))
    session = Session(other)
    assert session.judge.name == "refusal-match"
    assert session.guard.name == "mini:guard"
    assert Session(ours).judge.name == "mini:guard"
    same = [_judge(RunFiles(Path("x"), recipe=r))["same_as_filter"] for r in (ours, other)]
    assert same == [True, False]


def test_the_sampler_of_a_loop_lets_go_of_the_stack_that_its_layers_are_cut_from(monkeypatch):
    """Beside a trainer on a mesh it has a copy of its own: one, at no time two."""
    stack = []

    def loading(*args):
        params = load_params(*args)
        stack.extend(weakref.ref(leaf) for leaf in jax.tree.leaves(params["layers"]))
        return params

    monkeypatch.setattr("thinksafe_jax.pipeline.session.load_params", loading)
    monkeypatch.setattr(
        "thinksafe_jax.pipeline.session.Engine", lambda *_, **__: [leaf() for leaf in stack]
    )
    recipe = load_recipe(REPOSITORY / "configs/recipes/mini-grpo.yaml", ["mesh=cpu-8"])
    left = Session(recipe).engine_apart({}, None)
    assert left and not any(leaf is not None for leaf in left)
