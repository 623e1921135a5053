"""Joining: before anything else of JAX, once a process."""

import logging
import sys
import time

from thinksafe_jax.errors import EnvironmentFault
from thinksafe_jax.hosts.agreement import compare_hosts
from thinksafe_jax.hosts.cluster import Cluster, find_cluster
from thinksafe_jax.hosts.connected_group import ConnectedGroup
from thinksafe_jax.hosts.group import Group
from thinksafe_jax.hosts.rendezvous import Rendezvous
from thinksafe_jax.hosts.rendezvous_client import connect, place, reason_of
from thinksafe_jax.hosts.secret import VARIABLE, read_secret
from thinksafe_jax.hosts.time_limits import Limits

_log = logging.getLogger(__name__)
_joined: Group | None = None


def current() -> Group:
    """The group of this process: what `join` made, or one of its own.

    Raises:
        EnvironmentFault: JAX was started on several processes without `join`.
    """
    if _joined is not None:
        return _joined
    jax = sys.modules.get("jax")  # that is imported late, so that refusals come at once
    if jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1:
        raise EnvironmentFault(
            f"JAX runs on {jax.process_count()} processes that have not met: call "
            "thinksafe_jax.hosts.join instead of jax.distributed.initialize"
        )
    return _ALONE


def join(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    compare: bool = True,
) -> Group:
    """Finds the other processes, starts `jax.distributed`, and compares code and versions.

    Does nothing where this process is alone. Must come before anything that starts a JAX back end.

    Args:
        coordinator, processes, process: see `find_cluster`.
        compare: False for who compares the hosts itself, as `pod.examine_pod`.

    Raises:
        ConfigError: the arguments do not fit together; the processes run different code.
        EnvironmentFault: not all processes came in time: which, and what to look at.
    """
    global _joined
    cluster = find_cluster(coordinator, processes, process)
    if cluster is None:
        limits = Limits.from_environment(alone=True)
        _joined = Group(limits) if limits.step else None
        return current()
    limits, address = Limits.from_environment(alone=False), place(cluster.host, cluster.port)
    rendezvous = None
    if cluster.index == 0:
        rendezvous = Rendezvous(cluster, limits)
        if not read_secret():
            _log.warning("no %s is set: whoever reaches %s can take a place", VARIABLE, address)
    group = _joined = ConnectedGroup(cluster, limits, rendezvous)
    _start_jax(cluster, group, limits, rendezvous.address if rendezvous else "")
    if compare:
        _refuse_differences(group)
    if group.first:
        names = "; ".join(dict.fromkeys(group.names))
        _log.info("%d processes, found by %s: %s", group.count, cluster.found_by, names)
    return group


def _refuse_differences(group: ConnectedGroup) -> None:
    from thinksafe_jax.hosts.versions import software_versions, source_hash
    from thinksafe_jax.machine import compiler_flags

    compare_hosts(group, "code", {"source": source_hash()})
    compare_hosts(group, "versions", software_versions())
    compare_hosts(group, "compiler flags", compiler_flags())


def _start_jax(cluster: Cluster, group: ConnectedGroup, limits: Limits, bind_address: str) -> None:
    import jax

    address = place(cluster.host, group.jax_port)
    if not group.first:
        _reach(cluster, group, address, limits)
    # it would take SIGTERM from here on, for a sync point that nothing asks for
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        address,
        cluster.count,
        cluster.index,
        coordinator_bind_address=place(bind_address, group.jax_port) if bind_address else None,
        local_device_ids=cluster.local_devices,
        cluster_detection_method="deactivate",
        initialization_timeout=int(max(60, limits.start)),
        # the rendezvous notices first, and says more
        heartbeat_timeout_seconds=int(max(100, 2 * limits.silence)),
        shutdown_timeout_seconds=60,
    )


def _reach(cluster: Cluster, group: ConnectedGroup, address: str, limits: Limits) -> None:
    """Waits until JAX's service in process 0 answers: JAX would abort, and name no port."""
    deadline = time.monotonic() + limits.start
    try:
        connect(cluster.host, group.jax_port, deadline, group.check).close()
    except OSError as error:
        raise EnvironmentFault(
            f"process {cluster.index} cannot reach JAX's service in process 0 at {address}: "
            f"{reason_of(error)}, for {limits.start:.0f} s, though process 0 answers at port "
            f"{cluster.port}. Both ports must be open between the hosts"
        ) from None


def leave() -> None:
    """The run is done: waits for the others."""
    if _joined is not None:
        _joined.leave()


def fail(why: str, code: int) -> None:
    """This process ends early with an exit code; with several, it does so here and now."""
    if _joined is not None:
        _joined.fail(why, code)


_ALONE = Group()
