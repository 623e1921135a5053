"""The dataset in others' hands: the authors' JSON, and the Hugging Face Hub."""

import json
import logging
from pathlib import Path

from thinksafe_jax.errors import EnvironmentFault, InputError, first_line, quoted
from thinksafe_jax.storage import atomic_writer, shown
from thinksafe_jax.synthesis.dataset import read_dataset
from thinksafe_jax.weights import hub_errors

# as the authors' synthesize_data.py writes them; their train.py reads the first two
AUTHORS_COLUMNS = ("instruction", "response", "prompt_label", "response_label")
_FILES = ["README.md", "counts.json", "data/*.parquet"]
_log = logging.getLogger(__name__)


def write_authors_json(run_path: Path, out: Path) -> int:
    """One JSON list of the authors' columns; returns the number of rows.

    It is read back by a prompt source with `response_column: response` (method external).
    """
    count = 0
    with atomic_writer(out) as file:
        file.write(b"[")
        for row in read_dataset(run_path):
            text = json.dumps({name: row[name] for name in AUTHORS_COLUMNS}, ensure_ascii=False)
            file.write((",\n " if count else "\n ").encode() + text.encode())
            count += 1
        file.write(b"\n]\n")
    return count


def push(run_path: Path, repository: str, *, private: bool = True) -> str:
    """Uploads RUN/dataset (Parquet, card, counts) to the Hub; returns the address.

    Raises:
        InputError: there is no dataset, or the name is not owner/name.
        EnvironmentFault: not logged in, or the Hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    folder = run_path / "dataset"
    if not (folder / "README.md").exists():
        raise InputError(
            f"{shown(folder)}: no dataset yet; first: thinksafe filter {shown(run_path)}"
        )
    if repository.count("/") != 1:
        raise InputError(f"{quoted(repository, 200)}: expected owner/name")
    api = HfApi()
    try:
        address = api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        if private and not api.repo_info(repository, repo_type="dataset").private:
            raise InputError(f"{repository} exists and is public; give --public if that is meant")
        api.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=_FILES,
            commit_message="Dataset of a ThinkSafe run",
        )
    except hub_errors() as error:
        answered = getattr(error, "response", None) is not None
        way_out = (
            "log in with `hf auth login`, and see that the token may write"
            if answered
            else "the Hub cannot be reached from here; what was not uploaded is kept in "
            f"{shown(folder)}"
        )
        raise EnvironmentFault(
            f"{repository}: the upload failed ({first_line(error)}); {way_out}"
        ) from None
    return str(address)
