"""The paper's figures in the form of a study's measures."""

from collections.abc import Mapping

from thinksafe_jax.data import BENCHMARKS
from thinksafe_jax.studies.measures import KIND_OF


def published_measures(row: Mapping[str, float]) -> dict[str, float]:
    """Means over the suites of each kind, as shares.

    The paper's own Safety Average mixes over-refusal in; here each kind stands for itself.

    Args:
        row: column -> per cent, see `paper_rows`.
    """
    columns = {b.paper.key: b.kind for b in BENCHMARKS.values() if b.paper is not None}
    measures = {}
    for measure, kind in KIND_OF.items():
        values = [row[key] for key, of_kind in columns.items() if of_kind == kind and key in row]
        if values:
            measures[measure] = sum(values) / len(values) / 100
    return measures
