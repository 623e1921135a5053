"""A small study file that tests change."""

import pytest
import yaml

SPLIT = {"judge": "mini", "sampling": {"max_new_tokens": 128}}
HARMFUL = {"path": "mini:heldout-harmful", "limit": 4}
SMALL = {
    "seeds": [1, 2],
    "choose": {"rule": "minimise harm", "seeds": [1]},
    "validation": {**SPLIT, "harmful": [HARMFUL]},
    "heldout": {**SPLIT, "harmful": [{**HARMFUL, "start": 4}]},
    "methods": [
        {
            "name": "ThinkSafe",
            "recipe": "mini",
            "grid": {"training.learning_rate": [1e-4, 5e-4], "training.epochs": [1, 2]},
        },
        {"name": "DirectRefusal", "recipe": "mini_direct_refusal"},
    ],
}


@pytest.fixture
def write(tmp_path):
    """Writes SMALL, changed, and returns the file."""

    def file(**changes):
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump({**SMALL, **changes}, sort_keys=False))
        return path

    return file
