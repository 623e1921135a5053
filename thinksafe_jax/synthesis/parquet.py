"""The dataset's Parquet copy, which `datasets` and the Hub's viewer read."""

import os
from pathlib import Path
from types import TracebackType

from thinksafe_jax.storage import prepare_directory, storage_errors, sync_folder

COLUMNS = (
    "id", "instruction", "response", "prompt_label", "response_label", "finish_reason",
)  # fmt: skip
_ROWS = 1000  # of a row group; at 16k tokens a row some 64 MB of text
_NAME = "train-00000-of-00001.parquet"


class ParquetWriter:
    """Writes rows of text in groups; the file appears whole, at the end of the `with` block."""

    def __init__(self, folder: Path):
        import pyarrow

        self._arrow = pyarrow
        self._schema = pyarrow.schema([(name, pyarrow.string()) for name in COLUMNS])
        self._path = prepare_directory(folder) / _NAME
        self._partial = self._path.with_name(f".{_NAME}.{os.getpid()}.partial")
        self._rows: list[dict[str, str]] = []

    def __enter__(self) -> "ParquetWriter":
        import pyarrow.parquet

        self._path.unlink(missing_ok=True)
        with storage_errors(self._path):
            self._file = pyarrow.parquet.ParquetWriter(self._partial, self._schema)
        return self

    def add(self, row: dict[str, str]) -> None:
        self._rows.append(row)
        if len(self._rows) == _ROWS:
            self._flush()

    def _flush(self) -> None:
        with storage_errors(self._path):
            self._file.write_table(self._arrow.Table.from_pylist(self._rows, self._schema))
        self._rows.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
            self._file.close()
            if kind is None:
                with storage_errors(self._path):
                    self._partial.replace(self._path)
                    sync_folder(self._path.parent)
        finally:
            self._partial.unlink(missing_ok=True)
