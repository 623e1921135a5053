"""Rows of JSONL, JSON, CSV and Parquet files and of datasets, each with the place it came from.

The standard library reads the text formats because a wrong row must be named by file and line;
`datasets` would report an offset into a block. Nothing is repaired silently: a byte order mark,
CRLF and blank lines are accepted, every other irregularity stops the run with its line number.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinksafe_jax.config import PromptSource
from thinksafe_jax.errors import InputError, did_you_mean, first_line, listed, quoted
from thinksafe_jax.json_files import load_unique

HUB = "hf:"
Columns = Collection[str] | None  # those that are needed; None is all
_BOM = b"\xef\xbb\xbf"
# beyond what a prompt set is, and before the machine's memory ends
MOST_ROW = 64 * 2**20  # bytes of a line, and of a field of CSV
MOST_WHOLE = 2 * 2**30  # bytes of a file that is read whole: JSON, CSV; of a column in Parquet
MOST_COLUMNS = 1_000_000
_SHOWN = 20  # columns that a message lists
_OTHER_NAMES = {
    ".gz": "unpack it first",
    ".zst": "unpack it first",
    ".zip": "unpack it first",
    ".ndjson": "it is JSON lines: rename it to .jsonl",
    ".jsonlines": "rename it to .jsonl",
    ".tsv": "save it with commas, as .csv",
    ".xlsx": "save it as .csv",
}


@dataclass(frozen=True)
class Row:
    """One row of a source: its 1-based number among the data rows, its place, its columns."""

    number: int
    place: str  # "prompts.jsonl:12"
    values: dict[str, Any]


def read_rows(path: str | Path, columns: Collection[str] | None = None) -> Iterator[Row]:
    """Every data row of a `.jsonl`, `.json`, `.csv` or `.parquet` file, in file order.

    Args:
        columns: those that are needed; of a Parquet file no others are read.

    Raises:
        InputError: the file is missing, has another ending, or a row cannot be read.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix not in _READERS:
        hint = f"; {_OTHER_NAMES[suffix]}" if suffix in _OTHER_NAMES else ""
        raise InputError(
            f"{file}: prompts are read from {', '.join(_READERS)}, not "
            f"{quoted(file.suffix, 200)}{hint}"
        )
    if not file.is_file():
        raise no_file(file, "prompt file")
    yield from _READERS[suffix](file, columns)


def no_file(file: Path, what: str) -> InputError:
    """The error for a file that is not there; of a relative path, with where it was looked for."""
    place = "" if file.is_absolute() else f" in {Path.cwd()}, from where paths start"
    return InputError(f"{file}: no such {what}{place}")


def no_column(place: str, column: str, names: Sequence[Any]) -> InputError:
    """The error for a row without a column, with the nearest of those it has."""
    names = [n if n == n.strip() else quoted(n, 200) for n in map(str, names)]
    hint = did_you_mean(column, names[:1000], cutoff=0.5)
    if len(names) == 1 and (other := next((c for c in ";\t|" if c in names[0]), None)):
        hint = f"; the file is separated by {quoted(other)}: save it with commas"
    return InputError(
        f"{place}: no column {quoted(column)}{hint} (columns: {listed(names, _SHOWN)})"
    )


def _read_jsonl(file: Path, _: Columns) -> Iterator[Row]:
    number = 0
    with file.open("rb") as handle:
        for line_number, raw in enumerate(iter(lambda: handle.readline(MOST_ROW + 1), b""), 1):
            place = f"{file}:{line_number}"
            if len(raw) > MOST_ROW:
                raise _too_large(place, "the line", MOST_ROW)
            line = _decode(raw.removeprefix(_BOM) if line_number == 1 else raw, place)
            if not line.strip():
                continue
            try:
                values = load_unique(line, nan=True)
            except ValueError as error:
                hint = _json_list_hint(line) if line_number == 1 else ""
                raise InputError(f"{place}: not valid JSON ({error}){hint}") from None
            if not isinstance(values, dict):
                raise InputError(
                    f"{place}: a JSON object was expected, not {type(values).__name__}"
                )
            number += 1
            yield Row(number, place, values)


def _json_list_hint(first_line: str) -> str:
    listed = first_line.strip() in ("[", "{", "[{")
    return "; this is not one object a line: name the file .json" if listed else ""


def _too_large(place: str, what: str, most: int) -> InputError:
    return InputError(
        f"{place}: {what} is larger than {most / 2**20:,.0f} MiB, the most that is read at once; "
        "is it a prompt file?"
    )


def _read_whole(file: Path) -> bytes:
    if file.stat().st_size > MOST_WHOLE:
        raise InputError(
            f"{file}: {file.stat().st_size / 2**30:,.1f} GiB; {file.suffix} files are read whole, "
            f"up to {MOST_WHOLE / 2**30:g} GiB: save it as .jsonl or .parquet"
        )
    return file.read_bytes().removeprefix(_BOM)


def _decode(raw: bytes, place: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{place}: invalid UTF-8 (byte {raw[error.start]:#04x} at {error.start}); save the "
            "file as UTF-8"
        ) from None


def _read_json(file: Path, _: Columns) -> Iterator[Row]:
    """A list of objects in one file, as the authors' code writes it."""
    try:
        rows = load_unique(_decode(_read_whole(file), str(file)), nan=True)
    except ValueError as error:
        lines = "; one object a line is .jsonl" if "Extra data" in str(error) else ""
        raise InputError(f"{file}: not valid JSON ({error}){lines}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{file}: a list of JSON objects was expected")
    for number, row in enumerate(rows, start=1):
        yield Row(number, f"{file}: row {number}", row)


def is_dataset(path: str) -> bool:
    """Whether a source is a folder or a Hub dataset, which `datasets` reads."""
    return path.startswith(HUB) or Path(path).is_dir()


def read_dataset_rows(source: PromptSource) -> Iterator[Row]:
    """Every row of a split of a dataset: a folder that `datasets` knows, or `hf:owner/name`.

    Raises:
        InputError: no such dataset, configuration or split, or it needs code to be read.
        EnvironmentFault: the Hub cannot be reached or refuses access.
    """
    folder = Path(source.path)
    if source.path.startswith(HUB):
        from thinksafe_jax.weights import download_dataset

        folder = download_dataset(source.path.removeprefix(HUB), source.revision)
    table, number = _load_dataset(folder, source), 0
    name = f"{source.path}[{source.split}]"
    try:
        for number, values in enumerate(table, start=1):
            yield Row(number, f"{name}: row {number}", dict(values))
    except (ValueError, OverflowError) as error:
        raise InputError(f"{name}: row {number + 1}: cannot be read ({error})") from None


def _load_dataset(folder: Path, source: PromptSource) -> Any:
    import datasets
    from datasets.exceptions import DatasetsError

    datasets.disable_progress_bars()
    try:
        if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
            saved = datasets.load_from_disk(str(folder))
            return saved[source.split] if isinstance(saved, datasets.DatasetDict) else saved
        return datasets.load_dataset(str(folder), source.subset, split=source.split)
    except (LookupError, ValueError, OSError, RuntimeError, DatasetsError) as error:
        if not source.path.startswith(HUB) and not _is_one_dataset(folder, source.subset):
            raise InputError(_no_dataset(folder, source.path)) from None
        reason = first_line(error)
        raise InputError(
            f"{source.path}: split {quoted(source.split, 200)} cannot be read ({reason}); see "
            "the source's `split` and `subset`"
        ) from None


def _is_one_dataset(folder: Path, subset: str | None) -> bool:
    """Whether `datasets` knows what a folder is: the split asked for, or a file, is wrong."""
    import datasets

    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return True
    if any(next(folder.rglob(f"*{suffix}"), None) for suffix in (".parquet", ".arrow")):
        return True  # which nothing else reads: its own reason is what is wrong
    with suppress(Exception):  # of whatever kind: the folder's files decide what is raised
        subsets = datasets.get_dataset_config_names(str(folder))
        if subset is not None and subset not in subsets:
            return True
        return bool(datasets.get_dataset_split_names(str(folder), subset))
    return False


def _no_dataset(folder: Path, path: str) -> str:
    """What is said of a folder of other things."""
    files = sorted(f.name for f in folder.iterdir() if f.suffix.lower() in _READERS)
    if files:
        fix = f"give the path of a file in it: {listed(files)}"
    else:
        fix = (
            f"no {listed(_READERS)} file is in it. Give the path of a file, a folder that "
            "`datasets` has saved, hf:OWNER/NAME or mini:SPLIT"
        )
    return f"{path}: this is a folder, and not a dataset; {fix}"


def _read_csv(file: Path, _: Columns) -> Iterator[Row]:
    text = "".join(
        _decode(raw, f"{file}:{n}")
        for n, raw in enumerate(_read_whole(file).splitlines(True), start=1)
    )
    # a prompt of a megabyte is legal; the module's limit of 128 KiB a field is process-wide
    old_limit = csv.field_size_limit(MOST_ROW)
    try:
        records = list(_csv_records(file, text))
    finally:
        csv.field_size_limit(old_limit)
    if not records:
        return
    (header_line, header), *rows = records
    _check_header(header, f"{file}:{header_line}")
    for number, (line, record) in enumerate(rows, start=1):
        if len(record) != len(header):
            raise InputError(
                f"{file}:{line}: {len(record)} fields, but the header has {len(header)}; quote "
                "fields that hold commas or line breaks"
            )
        yield Row(number, f"{file}:{line}", dict(zip(header, record, strict=True)))


def _check_header(header: Sequence[str], place: str) -> None:
    if len(header) > MOST_COLUMNS:
        raise InputError(f"{place}: {len(header):,} columns; at most {MOST_COLUMNS:,} are read")
    repeated = sorted(name for name, count in Counter(header).items() if count > 1)
    if repeated:
        names = ", ".join(name or "'' (no name)" for name in repeated[:_SHOWN])
        raise InputError(f"{place}: repeated column names {names}")


def _csv_records(file: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """(line place the record starts, fields), blank lines left out."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for record in reader:
            if record:
                yield line, record
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{file}:{line}: not valid CSV ({error})") from None


def _read_parquet(file: Path, columns: Columns) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        names = _parquet_columns(file, table.schema_arrow.names, columns)
        _refuse_bomb(file, table.metadata, names)
        # a text that a million rows share is kept once
        texts = [n for n in names if _is_text(table.schema_arrow.field(n).type)]
        table = pyarrow.parquet.ParquetFile(file, read_dictionary=texts)
        number = 0
        for batch in table.iter_batches(batch_size=1024, columns=names):
            for index in range(batch.num_rows):
                number += 1
                place = f"{file}: row {number}"
                yield Row(number, place, _parquet_row(batch, index, names, place))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not a readable Parquet file ({error})") from None


def _refuse_bomb(file: Path, metadata: Any, names: Sequence[str]) -> None:
    """A small file may unpack to any size; its own figures say to which."""
    for group in range(metadata.num_row_groups):
        # a damaged column's figures end the whole process in pyarrow, those of a group do not
        if metadata.row_group(group).total_byte_size <= MOST_WHOLE:
            continue
        chunks = map(metadata.row_group(group).column, range(metadata.num_columns))
        for chunk in chunks:
            size = chunk.total_uncompressed_size
            if chunk.path_in_schema.partition(".")[0] in names and size > MOST_WHOLE:
                raise InputError(
                    f"{file}: column {quoted(chunk.path_in_schema)} of row group {group} unpacks "
                    f"to {size / 2**30:,.1f} GiB; at most {MOST_WHOLE / 2**30:g} GiB are read at "
                    "once"
                )


def _is_text(kind: Any) -> bool:
    import pyarrow

    return pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)


def _parquet_columns(file: Path, names: Sequence[str], columns: Columns) -> list[str]:
    needed = list(names) if columns is None else sorted(columns)
    if len(needed) > MOST_COLUMNS:
        raise InputError(f"{file}: {len(needed):,} columns; at most {MOST_COLUMNS:,} are read")
    counts = Counter(names)
    for name in needed:
        if name not in names:
            raise no_column(str(file), name, names)
        if counts[name] > 1:
            raise InputError(f"{file}: repeated column name {name}")
    return needed


def _parquet_row(batch: Any, index: int, names: Sequence[str], place: str) -> dict[str, Any]:
    values = {}
    for name in names:
        try:
            values[name] = batch.column(name)[index].as_py()
        except UnicodeDecodeError:
            raise InputError(f"{place}: invalid UTF-8 in column {quoted(name)}") from None
        except (ValueError, OverflowError) as error:  # beyond what Python can hold
            raise InputError(f"{place}: column {quoted(name)} cannot be read ({error})") from None
    return values


_READERS: dict[str, Callable[[Path, Columns], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
