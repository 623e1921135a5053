"""Is this host, and this pod, fit for a run: versions, devices, storage, links."""

from thinksafe_jax.doctor.host import examine, print_findings
from thinksafe_jax.doctor.pod import examine_pod
from thinksafe_jax.doctor.pod_report import print_report

__all__ = ["examine", "examine_pod", "print_findings", "print_report"]
