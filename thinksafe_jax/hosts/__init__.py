"""Several processes as one run: they join, compare, keep in step, and end together."""

from thinksafe_jax.hosts.agreement import compare_hosts, majority
from thinksafe_jax.hosts.group import Group
from thinksafe_jax.hosts.join import current, fail, join, leave
from thinksafe_jax.hosts.shared_queue import shared_queue
from thinksafe_jax.hosts.versions import COMPUTE, software_versions, source_hash

__all__ = [
    "COMPUTE",
    "Group",
    "compare_hosts",
    "current",
    "fail",
    "join",
    "leave",
    "majority",
    "shared_queue",
    "software_versions",
    "source_hash",
]
