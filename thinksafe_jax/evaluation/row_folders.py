"""Whose rows lie in an evaluation's folder. Rows of another model or guard are set aside, kept.

    before/responses/                      of the model, questions and settings asked now
    before/responses.sha256                their identity
    before/earlier/responses-1f3a…/        of other weights or settings

Measuring an earlier model again takes its rows up: they come back from `earlier/`.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from thinksafe_jax.storage import atomic_write, persist, prepare_directory, set_aside

_log = logging.getLogger(__name__)


def take_up(out_dir: Path, identities: Mapping[str, str]) -> None:
    """Leave in each folder the rows of its identity, or none; nothing is deleted.

    Args:
        out_dir: RUN/evaluation/<name>.
        identities: folder -> hash of all that its rows follow from; the last is of the scores, too.
    """
    earlier, before, identity = out_dir / "earlier", "", ""
    for name, identity in identities.items():
        folder, file = out_dir / name, out_dir / f"{name}.sha256"
        before = file.read_text(encoding="utf-8").strip() if file.exists() else ""
        if before != identity and folder.exists():
            _set_aside(folder, earlier / f"{name}-{_short(before)}")
        prepare_directory(out_dir)
        atomic_write(file, f"{identity}\n")
        kept = earlier / f"{name}-{_short(identity)}"
        if kept.exists() and not folder.exists():
            kept.rename(folder)
            _log.info("%s: taken up from %s", folder, kept)
    if before and before != identity:
        for result in (out_dir / "rows.jsonl", out_dir.with_name(f"{out_dir.name}.json")):
            if result.exists():
                _set_aside(result, earlier / f"{result.stem}-{_short(before)}{result.suffix}")
    persist(out_dir.parent)


def _short(identity: str) -> str:
    return identity[:16] or "unnamed"


def _set_aside(path: Path, target: Path) -> None:
    kept = set_aside(path, target)
    _log.warning("%s: of another model, guard or setting; it is kept as %s", path, kept)
