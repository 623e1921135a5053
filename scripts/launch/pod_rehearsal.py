# bash scripts/launch/rehearse.sh runs scripts/launch/pod_rehearsal.py
"""The rehearsal of a pod: three starts of one run in a bucket, and what was lost between them.

    start       hosts        environment                 ended by
    alone       1 x 8        none; what the others must equal
    GKE         4 x 2        variables, two slices       SIGTERM to one, while it samples
    Cloud TPU   4 x 2        a metadata server a host    SIGKILL of one, while it trains
    Slurm       2 x 4        variables of srun           its own end

Every host of every start has a disk of its own, which is gone with it.
"""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from scripts.launch.launcher_variables import (
    Host,
    cloud_tpu,
    gke,
    metadata_server,
    slurm,
    tpu_facts,
)

ROOT = Path(__file__).resolve().parents[2]
RECIPE, MESH = ROOT / "configs/recipes/mini.yaml", "cpu-4x2"
DEVICES = 8
SETTINGS = [
    "synthesis.limit=64", "synthesis.ladder=[]", "synthesis.attempts=2", "engine.slots=2",
    "evaluation.harmful.0.limit=8", "evaluation.over_refusal.0.limit=8", "evaluation.reasoning=[]",
    "evaluation.suites=[]", "training.epochs=3", "training.checkpoint_every=3",
]  # fmt: skip
PATIENCE = 420  # seconds for a start: a guard against hangs
Key = tuple[str, int]  # of a row: prompt and attempt


@dataclass(frozen=True)
class Start:
    """One start of the run.

    Attributes:
        name: of the launcher.
        hosts: environment of each process.
        stop: the signal that one process gets, if any; the last one, and not process 0.
        ready: (folders of the hosts' local copies) -> whether it is time for the signal.
    """

    name: str
    hosts: list[Host]
    stop: signal.Signals | None = None
    ready: Callable[[list[Path]], bool] = lambda folders: False


@dataclass(frozen=True)
class Ended:
    """How a start ended.

    Attributes:
        codes: exit codes, in the order of the processes.
        said: what the first process wrote to stderr.
        folder: what the bucket, or the run directory, held then.
    """

    start: Start
    codes: list[int]
    seconds: float
    said: str
    folder: Path


def sampling(folders: list[Path]) -> bool:
    """Whether some rows are on the hosts' disks."""
    return sum(len(rows_of(folder)) for folder in folders) >= 8


def training(folders: list[Path]) -> bool:
    """Whether a checkpoint is complete."""
    return any(any(folder.glob("checkpoints/*/manifest.json")) for folder in folders)


def run(start: Start, work: Path, run_dir: str, guard_mesh: Path) -> tuple[list[int], float, str]:
    """Runs a start to its end; exit codes, seconds, and what process 0 said."""
    work.mkdir(parents=True)
    began, secret, stop = time.monotonic(), secrets.token_hex(16), start.stop
    changes = [*SETTINGS, f"mesh={MESH}", f"guard.mesh={guard_mesh}"]
    command = [sys.executable, "-W", "ignore", "-m", "thinksafe_jax", "run"]
    command += ["--config", str(RECIPE), "--run-dir", run_dir, *changes]
    processes = []
    for number, host in enumerate(start.hosts):
        disk = work / f"host-{number}"
        common = environment(DEVICES // len(start.hosts), work.parent / "compiled", disk)
        whole = {**os.environ, **common, "THINKSAFE_SECRET": secret, **host}
        with disk.with_suffix(".log").open("w") as log:
            processes.append(subprocess.Popen(command, env=whole, stdout=log, stderr=log))
    while any(process.poll() is None for process in processes):
        if stop is not None and start.ready(list(work.glob("host-*/runs/*"))):
            processes[-1].send_signal(stop)
            stop = None
        if time.monotonic() - began > PATIENCE:
            for process in processes:
                process.kill()
        time.sleep(0.1)
    codes = [process.wait() for process in processes]
    return codes, time.monotonic() - began, (work / "host-0.log").read_text()


def environment(devices: int, compiled: Path, disk: Path) -> Host:
    """Variables of every host: simulated devices, a disk of its own, programs compiled once."""
    return {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # the models are tiny: compiling is nearly all
        "THINKSAFE_CACHE": str(disk),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
        "TERM": "dumb",
    }


def rows_of(folder: Path) -> dict[Key, str]:
    """Sampled rows by (id, attempt), as they are written; a torn last line is none."""
    rows = {}
    for part in sorted(folder.glob("samples/part-*.jsonl")):
        for line in part.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                row = json.loads(line)
                rows[row["id"], row["attempt"]] = line
    return rows


def steps_of(folder: Path) -> list[int]:
    """Steps of the training's metrics, in the order of the file."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    entries = [entry for entry in map(json.loads, lines) if entry.get("stage") == "train"]
    return [entry["step"] for entry in entries if "loss" in entry and "step" in entry]


def saved_step(folder: Path) -> int:
    """The newest complete checkpoint's step; 0 where there is none."""
    steps = [path.parent.name for path in folder.glob("checkpoints/*/manifest.json")]
    return max((int(re.sub(r"\D", "", name)) for name in steps), default=0)


@dataclass(frozen=True)
class Check:
    """One line of the table: what there should be, what there is, and how much of it is lost."""

    what: str
    expected: int | str
    there: int | str
    lost: int


def checks(alone: Ended, stopped: Ended, killed: Ended, last: Ended) -> list[Check]:
    """What the run lost on its way, against what each stop left and what one start makes."""
    rows, whole = rows_of(last.folder), rows_of(alone.folder)
    same = sum(key in rows and text_of(rows[key]) == text_of(line) for key, line in whole.items())
    data, ours = (
        (ended.folder / "dataset/train.jsonl").read_text().splitlines() for ended in (alone, last)
    )
    wanted, steps = steps_of(alone.folder), steps_of(last.folder)
    unlike = len(set(wanted) - set(steps)) + len(steps) - len(set(steps))
    saved, resumed = saved_step(killed.folder), re.search(r"resuming at step (\d+)", last.said)
    first = int(resumed[1]) if resumed else 0
    far = adapter_difference(alone.folder, last.folder)
    codes = [stopped.codes[-1] == 143, killed.codes[-1] == -signal.SIGKILL, not any(last.codes)]
    codes += [code == 75 for ended in (stopped, killed) for code in ended.codes[:-1]]
    right, count = sum(codes), len(codes)
    return [
        kept("rows in the bucket after SIGTERM", rows_of(stopped.folder), rows),
        kept("rows in the bucket after SIGKILL", rows_of(killed.folder), rows),
        Check("rows as one start draws them", len(whole), f"{same} the same", len(whole) - same),
        Check("rows of the dataset", len(data), len(ours), len(set(data) ^ set(ours))),
        Check("steps of training, each once", len(wanted), len(steps), unlike),
        Check("step saved before SIGKILL", saved, f"resumed at {first}", max(0, saved - first)),
        Check("the adapter as one start trains it", "within 1e-3", f"{far:.1e}", int(far > 1e-3)),
        Check("exit codes: 143, -9, and 75 beside them", count, right, count - right),
    ]


def kept(what: str, before: dict[Key, str], rows: dict[Key, str]) -> Check:
    """Whether rows that were there are still, byte for byte."""
    count = sum(rows.get(key) == line for key, line in before.items())
    return Check(what, len(before), f"{count} kept", len(before) - count)


def text_of(line: str) -> str:
    """What a row says; its guard's figures may differ in their last digit."""
    row = json.loads(line)
    return json.dumps([row.get("response"), row.get("finish_reason")])


def adapter_difference(one: Path, other: Path) -> float:
    """Largest difference of a weight, over the largest weight of its tensor."""
    from safetensors.numpy import load_file

    file = "adapter/adapter_model.safetensors"
    first, second = load_file(one / file), load_file(other / file)
    if first.keys() != second.keys():
        return float("inf")
    return max(
        float(abs(second[name] - value).max() / max(abs(value).max(), 1e-30))
        for name, value in first.items()
    )


def table(rows: list[list[str]]) -> str:
    """Columns of text, the first row as their heads."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def report(ends: list[Ended], lines: list[Check], seconds: float) -> str:
    """The two tables, and the verdict."""
    head = ["start", "hosts", "signal", "exit codes", "seconds", "rows", "saved step"]
    starts = [
        [end.start.name, f"{len(end.codes)} x {DEVICES // len(end.codes)}",
         end.start.stop.name if end.start.stop else "-", " ".join(map(str, end.codes)),
         f"{end.seconds:.0f}", str(len(rows_of(end.folder))), str(saved_step(end.folder))]
        for end in ends
    ]  # fmt: skip
    found = [[c.what, f"{c.expected}", f"{c.there}", f"{c.lost or 'nothing'}"] for c in lines]
    lost = sum(check.lost for check in lines)
    verdict = "lost: nothing" if not lost else f"LOST: {lost}"
    return "\n\n".join([table([head, *starts]), table([["", "expected", "there", "lost"], *found]),
                        f"{verdict} ({seconds:.0f} s)"])  # fmt: skip


def download(url: str, folder: Path) -> Path:
    """What the bucket holds now, by the store's own client."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().get(url, str(folder), recursive=True)
    return folder


def guard_mesh(folder: Path) -> Path:
    """The mini guard's three heads do not divide over tensor 2: a replica on each device."""
    text = (ROOT / f"configs/mesh/{MESH}.yaml").read_text()
    whole = text.replace("{replica: 4, tensor: 2}", "{replica: 8, tensor: 1}")
    (folder / "guard.yaml").write_text(whole)
    return folder / "guard.yaml"


def rehearse(work: Path) -> bool:
    """All starts, and the tables; whether nothing was lost."""
    from tests.object_store import s3_bucket

    began = time.monotonic()
    mesh = guard_mesh(work)
    # an address of this rehearsal's own: the port of TPU hosts is always the same
    address = f"127.{os.getpid() // 250 % 250}.{os.getpid() % 250}.9"
    with ExitStack() as stack:
        facts = [tpu_facts(address, number) for number in range(4)]
        servers = [stack.enter_context(metadata_server(fact)) for fact in facts]
        url = f"{stack.enter_context(s3_bucket())}/run"
        starts = [
            Start("alone", [{}]),
            Start("GKE", gke(address, servers), signal.SIGTERM, sampling),
            Start("Cloud TPU", cloud_tpu(address, servers), signal.SIGKILL, training),
            Start("Slurm", slurm(address, servers)),
        ]
        ends = []
        for start in starts:
            print(f"{start.name}: {len(start.hosts)} process(es) ...", flush=True)
            place = work / start.name.replace(" ", "-")
            run_dir = str(place / "run") if start.name == "alone" else url
            codes, seconds, said = run(start, place, run_dir, mesh)
            print(f"    {seconds:.0f} s, exit codes {codes}", flush=True)
            held = place / "run" if start.name == "alone" else download(url, place / "bucket")
            ends.append(Ended(start, codes, seconds, said, held))
            if start.stop is None and any(codes):
                print(f"{start.name} failed; its logs are in {place}\n{said[-3000:]}")
                return False
    lines = checks(*ends)
    print(f"\n{report(ends, lines, time.monotonic() - began)}\nlogs: {work}")
    return not any(check.lost for check in lines)


def main() -> None:
    """The command."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="rehearsal-"))
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        sys.exit(f"{folder} is not empty: give a new folder for the logs")
    sys.exit(0 if rehearse(folder.resolve()) else 1)


if __name__ == "__main__":
    main()
