"""Every process looks at its own host; what they found is compared, and the one that differs named.

All processes call the same functions in the same order, whatever they find: a fault of one host is
a line in the report and never a reason to leave the others waiting.
"""

import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thinksafe_jax.doctor.collective import Bandwidth, all_reduce
from thinksafe_jax.doctor.host import LITTLE_SPACE
from thinksafe_jax.errors import (
    ConfigError,
    EnvironmentFault,
    InputError,
    RetryLater,
    ThinkSafeError,
    first_line,
)
from thinksafe_jax.hosts import Group, majority, software_versions, source_hash
from thinksafe_jax.machine import cache_folder, compiler_flags
from thinksafe_jax.storage import (
    existing_place,
    free_bytes,
    is_url,
    open_store,
    store_errors,
)

MOST_SKEW = 2.0  # seconds between two hosts' clocks; logins and logs go wrong at minutes
_ROUNDS = 5


@dataclass(frozen=True)
class HostReport:
    """What one process found; faults are sentences, empty where there is none."""

    host: str
    chips: int
    kind: str
    versions: dict[str, str]
    free_disk: int
    run_dir: str
    # what is missing for it, [(exit code, sentence)]; None where none was given
    recipe: list[tuple[int, str]] | None


@dataclass(frozen=True)
class PodReport:
    """What all found.

    Attributes:
        hosts: one a process, in their order.
        skews: seconds by which each host's clock is ahead of the middle one.
        bandwidth: of an all-reduce over all devices; None on one device.
        problems: what has to be put right, each naming its host.
        exit_code: 0 without problems; else of the one that is least likely to pass by itself.
    """

    hosts: list[HostReport]
    skews: list[float]
    bandwidth: Bandwidth | None
    problems: list[str]
    exit_code: int


def examine_pod(
    group: Group,
    run_dir: str | None = None,
    recipe: Callable[[], list[ThinkSafeError]] | None = None,
) -> PodReport:
    """Examines all hosts; every process of the group calls this and gets the same report.

    Args:
        run_dir: folder or URL in which all must be able to write, and see what the others wrote.
        recipe: looks on each host for what a recipe needs, and says what is missing.
    """
    group.beat("doctor: devices")
    chips, kind = _devices()
    group.beat("doctor: run directory")
    shared = "" if run_dir is None else _shared_directory(group, run_dir)
    group.beat("doctor: recipe")
    mine = HostReport(
        host=socket.gethostname(),
        chips=chips,
        kind=kind,
        versions={**software_versions(), **compiler_flags(), "code": source_hash()[:12]},
        free_disk=free_bytes(cache_folder()),
        run_dir=shared,
        recipe=None if recipe is None else [(e.exit_code, str(e)) for e in recipe()],
    )
    hosts = [HostReport(**facts) for facts in group.gather("doctor", asdict(mine))]
    skews = _skews(group)
    problems = _problems(group, hosts, skews)
    bandwidth = None
    if all(host.chips for host in hosts):
        group.beat("doctor: all-reduce over all devices")
        bandwidth = all_reduce()
        wrong = group.gather("all-reduce", bandwidth is None or bandwidth.right)
        problems += [f"{group.describe(i)}: the all-reduce gave a wrong sum; a chip or link is "
                     "broken" for i, right in enumerate(wrong) if not right]  # fmt: skip
    return PodReport(hosts, skews, bandwidth, problems, _exit_code(hosts, problems))


def _exit_code(hosts: Sequence[HostReport], problems: Sequence[str]) -> int:
    """As of `FaultList.refuse`: scripts that start again go by it."""
    codes = {code for host in hosts for code, _ in host.recipe or ()}
    if len(problems) > sum(len(host.recipe or ()) for host in hosts):  # of the hosts themselves
        codes.add(EnvironmentFault.exit_code)
    kinds = (ConfigError, InputError, EnvironmentFault, RetryLater)
    return next((kind.exit_code for kind in kinds if kind.exit_code in codes), 0)


def _fault(work: Callable[[], Any]) -> str:
    try:
        work()
    except ThinkSafeError as error:
        return str(error)
    return ""


def _devices() -> tuple[int, str]:
    import jax

    try:
        devices = jax.local_devices()
    except Exception as error:  # JAX raises many kinds when a back end does not start
        return 0, first_line(error)
    return len(devices), devices[0].device_kind


def _shared_directory(group: Group, run_dir: str) -> str:
    """Each process writes a file there, looks for all the others', and takes its own away."""
    url = run_dir
    if not is_url(run_dir):  # an examination leaves nothing behind, so look where it would be made
        url = f"file://{existing_place(Path(run_dir).absolute())}"
    names = [f".thinksafe-doctor-{index}" for index in range(group.count)]

    def write() -> None:
        store, root = open_store(url)
        with store_errors(run_dir):
            store.pipe_file(f"{root}/{names[group.index]}", b"can all see this?\n")

    def look() -> None:
        store, root = open_store(url)
        with store_errors(run_dir):
            store.invalidate_cache()
            missing = [i for i, name in enumerate(names) if not store.exists(f"{root}/{name}")]
        if missing:
            others = ", ".join(map(group.describe, missing))
            raise EnvironmentFault(
                f"{run_dir} is not shared: files of {others} are not seen there; use a bucket or "
                "a disk that all hosts mount"
            )

    def take_away() -> None:
        store, root = open_store(url)
        with store_errors(run_dir):
            store.rm_file(f"{root}/{names[group.index]}")

    fault = _fault(write)
    all_wrote = not any(group.gather("doctor: written", fault))
    seen = _fault(look) if all_wrote else ""
    group.barrier("doctor: seen")
    left = "" if fault else _fault(take_away)
    return fault or seen or left


def _skews(group: Group) -> list[float]:
    """Clocks read as the same barrier opens, in some rounds: a slow message is no skew."""
    rounds = []
    for _ in range(_ROUNDS):
        group.barrier("clock")
        clocks = group.gather("clocks", time.time())
        rounds.append([clock - statistics.median(clocks) for clock in clocks])
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def _problems(group: Group, hosts: Sequence[HostReport], skews: Sequence[float]) -> list[str]:
    usual_chips = majority([(host.chips, host.kind) for host in hosts])
    usual = {name: majority([host.versions.get(name, "absent") for host in hosts])
             for name in sorted({name for host in hosts for name in host.versions})}  # fmt: skip
    problems = []
    for index, (host, skew) in enumerate(zip(hosts, skews, strict=True)):
        who = group.describe(index)
        if not host.chips:
            problems.append(f"{who}: no devices: {host.kind}")
        elif (host.chips, host.kind) != usual_chips:
            expected = "{} x {}".format(*usual_chips)
            problems.append(f"{who}: {host.chips} x {host.kind}, {expected} on the others")
        for name, version in usual.items():
            if (installed := host.versions.get(name, "absent")) != version:
                problems.append(f"{who}: {name} {installed}, {version} on the others")
        if abs(skew) > MOST_SKEW:
            problems.append(f"{who}: its clock is {skew:+.1f} s off; start its time service")
        if host.free_disk < LITTLE_SPACE:
            problems.append(
                f"{who}: {host.free_disk / 2**30:.1f} GiB free for THINKSAFE_CACHE, under "
                f"{LITTLE_SPACE / 2**30:.0f}; set it to a larger disk"
            )
        missing = [sentence for _, sentence in host.recipe or ()]
        problems += [f"{who}: {fault}" for fault in (host.run_dir, *missing) if fault]
    return problems
