"""Several processes as one run: found, compared, kept in step, and ended together."""

from thinksafe_jax.hosts.cluster import Cluster, find_cluster
from thinksafe_jax.hosts.compare import compare_hosts
from thinksafe_jax.hosts.group import Group
from thinksafe_jax.hosts.join import current, fail, join, leave

__all__ = [
    "Cluster",
    "Group",
    "compare_hosts",
    "current",
    "fail",
    "find_cluster",
    "join",
    "leave",
]
