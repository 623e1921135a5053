"""`thinksafe doctor --pod`: the same examination on all hosts, and who differs."""

from thinksafe_jax.pod.examine import HostReport, PodReport, examine_pod
from thinksafe_jax.pod.show import print_report

__all__ = ["HostReport", "PodReport", "examine_pod", "print_report"]
