"""Processes that meet; here they are threads of one, without JAX."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import free_port
from thinksafe_jax.errors import ConfigError, EnvironmentFault, RetryLater, ThinkSafeError
from thinksafe_jax.hosts import Group, compare_hosts
from thinksafe_jax.hosts.cluster import Cluster
from thinksafe_jax.hosts.connected_group import ConnectedGroup
from thinksafe_jax.hosts.connection import Connection
from thinksafe_jax.hosts.join import _reach
from thinksafe_jax.hosts.rendezvous import Rendezvous
from thinksafe_jax.hosts.secret import VARIABLE
from thinksafe_jax.hosts.time_limits import Limits

LIMITS = Limits(start=20.0, silence=20.0, step=0.0)


def together(
    work, count=3, limits=LIMITS, indices=None, counts=None, port=None, before_second=None
):
    """What `work(group)`, or its error, gives in each of `count` members; all in threads.

    `before_second` is called between the joining of process 0 and that of process 1.
    """
    indices, counts = indices or range(count), counts or [count] * count
    port, made = port or free_port(), []

    def member(index, count):
        cluster = Cluster("127.0.0.1", port, count, index, "a test")
        if before_second and index == 1:
            while 0 not in rendezvous._peers:
                time.sleep(0.01)
            before_second()
        try:
            made.append(ConnectedGroup(cluster, limits, rendezvous if index == 0 else None))
            return work(made[-1])
        except ThinkSafeError as error:
            return error

    rendezvous = Rendezvous(Cluster("127.0.0.1", port, counts[0], 0, "a test"), limits)
    with ThreadPoolExecutor(len(indices)) as threads:
        try:
            return list(threads.map(member, indices, counts))
        finally:
            for group in made:
                group.close()
            rendezvous.close()


def test_values_are_gathered_in_order_and_each_meeting_is_its_own():
    def work(group):
        first = group.gather("rows", {"of": group.index})
        again = [group.gather("rows", group.index * n)[-1] for n in range(3)]
        return first, again, group.decide("seed", group.index + 7), group.count

    expected = ([{"of": 0}, {"of": 1}, {"of": 2}], [0, 2, 4], 7, 3)
    assert together(work) == [expected] * 3


def test_the_first_goes_ahead_where_the_others_find_what_it_left(tmp_path):
    file = tmp_path / "pins"

    def pin():
        if not file.exists():
            file.write_text("commit")
            return "made"
        return "found"

    assert together(lambda group: group.in_turn("pins", pin)) == ["made", "found", "found"]


def test_a_group_of_one_is_at_every_meeting_at_once():
    alone = Group()
    assert alone.gather("x", 5) == [5] and alone.decide("x", 6) == 6 and alone.first
    compare_hosts(alone, "config", {"seed": "1"})


def test_who_differs_is_named_and_in_what():
    def work(group):
        odd = group.index == 1
        facts = {"seed": "42", "training.epochs": "2" if odd else "3"}
        compare_hosts(group, "config", facts | ({"extra": "1"} if odd else {}))

    errors = together(work)
    assert all(isinstance(error, ConfigError) for error in errors)
    assert len(set(map(str, errors))) == 1
    assert "the hosts differ in their config" in str(errors[0])
    assert "training.epochs is 2 on process 1 (" in str(errors[0])
    assert "3 on 2 others" in str(errors[0]) and "extra is 1 on process 1" in str(errors[0])
    assert "seed" not in str(errors[0])


def test_of_two_the_other_is_named_as_well():
    (error, _) = together(
        lambda group: compare_hosts(group, "code", {"source": str(group.index)}), count=2
    )
    assert "source is 1 on process 1 (" in str(error) and "0 on process 0 (" in str(error)


def test_who_is_missing_at_the_start_is_named():
    limits = Limits(start=4.0, silence=20.0, step=0.0)
    errors = together(lambda group: None, count=4, limits=limits, indices=[0, 2])
    for error in errors:
        assert isinstance(error, EnvironmentFault)
        assert "2 of 4 processes joined within 4 s; missing: process 1, 3." in str(error)
        assert "--worker=all" in str(error) and "at port" in str(error)


def test_a_missing_first_process_is_named_with_its_address():
    cluster = Cluster("127.0.0.1", free_port(), 2, 1, "Slurm")
    with pytest.raises(
        EnvironmentFault, match=r"cannot reach process 0 at .* \(from Slurm\): conn"
    ):
        ConnectedGroup(cluster, Limits(start=0.5))


@pytest.mark.parametrize(
    ("indices", "counts", "message"),
    [
        ([0, 1, 1], [3, 3, 3], "are both 1; give every process its own --process"),
        ([0, 1, 2], [3, 3, 4], "was started as one of 4, process 0 as one of 3"),
    ],
)
def test_processes_that_do_not_belong_together_are_refused(monkeypatch, indices, counts, message):
    """Where they know the run's secret, so that none of them is a stranger."""
    monkeypatch.setenv(VARIABLE, "known to all")
    errors = together(lambda group: None, indices=indices, counts=counts)
    assert all(isinstance(error, EnvironmentFault) and error.exit_code == 2 for error in errors)
    assert all(message in str(error) for error in errors)


def test_a_stray_start_is_turned_away_and_harms_nobody():
    port = free_port()

    def work(group):
        group.barrier("begin")
        said = "found no place for 0 s: .* has all its 2 processes, process 1 .* among them"
        if group.index == 1:
            with pytest.raises(EnvironmentFault, match=said):
                ConnectedGroup(Cluster("127.0.0.1", port, 2, 1, "a test"), Limits(start=0.1))
        return group.gather("rows", group.index)

    assert together(work, count=2, port=port) == [[0, 1], [0, 1]]


def names_with(joining):
    """Work of process 0 while the other, which is still joining, becomes process 1."""

    def work(group):
        other = joining.result()
        other.close()
        return group.names == other.names and other.index

    return work


def test_who_comes_while_another_command_ends_joins_the_next():
    """As the run of a worker does after `doctor --pod`, which process 0 has not quite left yet."""
    port = free_port()
    with ThreadPoolExecutor(1) as threads:

        def doctor(group):
            group.barrier("examined")
            if group.first:
                time.sleep(0.3)  # while the other is turned away
            else:
                again = Cluster("127.0.0.1", port, 2, 1, "a test")
                return threads.submit(ConnectedGroup, again, LIMITS)

        _, joining = together(doctor, count=2, port=port)
        assert together(names_with(joining), count=2, indices=[0], port=port) == [1]


def test_who_called_a_process_that_ended_calls_again():
    port = free_port()
    with ThreadPoolExecutor(1) as threads:
        with socket.create_server(("127.0.0.1", port)) as ending:
            joining = threads.submit(
                ConnectedGroup, Cluster("127.0.0.1", port, 2, 1, "a test"), LIMITS
            )
            ending.accept()[0].close()
        assert together(names_with(joining), count=2, indices=[0], port=port) == [1]


def test_who_takes_nothing_is_cut_off():
    with socket.create_server(("127.0.0.1", 0)) as server:
        stuck = socket.create_connection(server.getsockname())
        connection = Connection(server.accept()[0], patience=0.1, trusted=True)
    connection.send("values", values="x" * 2**25)  # more than the kernel keeps
    connection.send("tick")
    other_end = Connection(stuck, patience=0.1, trusted=True)
    assert list(other_end.messages()) == []  # half a line, and the end
    for end in (connection, stuck):
        end.close()


def test_jax_s_port_is_named_where_it_is_closed():
    def work(group):
        if group.index == 1:
            closed = Cluster("127.0.0.1", 1, 2, 1, "a test")
            _reach(closed, group, f"127.0.0.1:{group.jax_port}", Limits(start=0.1))

    _, error = together(work, count=2)
    assert isinstance(error, EnvironmentFault)
    assert "cannot reach JAX's service in process 0 at 127.0.0.1:" in str(error)
    assert "connection refused, for 0 s, though process 0 answers at port 1." in str(error)


def test_a_port_that_is_taken_is_said():
    cluster = Cluster("127.0.0.1", free_port(), 2, 0, "a test")
    rendezvous = Rendezvous(cluster, LIMITS)
    with pytest.raises(EnvironmentFault, match=r"cannot listen at port .* in use"):
        Rendezvous(cluster, LIMITS)
    rendezvous.close()


def test_limits_are_read_from_the_environment(monkeypatch):
    assert Limits.from_environment(alone=True).step == 0
    assert Limits.from_environment(alone=False) == Limits()
    monkeypatch.setenv("THINKSAFE_STEP_LIMIT", "90")
    assert Limits.from_environment(alone=True).step == 90
    for text in ("soon", "-1", "nan"):
        monkeypatch.setenv("THINKSAFE_STEP_LIMIT", text)
        with pytest.raises(ConfigError, match="expected seconds"):
            Limits.from_environment(alone=False)
    monkeypatch.setenv("THINKSAFE_STEP_LIMIT", "0")  # none
    monkeypatch.setenv("THINKSAFE_SILENCE_LIMIT", "0")
    with pytest.raises(ConfigError, match="SILENCE_LIMIT=0: expected seconds, 2 or more"):
        Limits.from_environment(alone=False)


def test_retry_later_is_exit_code_75():
    assert RetryLater("x").exit_code == 75
