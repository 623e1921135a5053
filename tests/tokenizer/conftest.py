"""What tests of templates share."""

import json

import pytest

from thinksafe_jax.tokenizer import chat_template
from thinksafe_jax.tokenizer.chat_template_worker import render_all


@pytest.fixture
def rendered_here(monkeypatch):
    """Renders unknown templates in this process, by the worker's function but without its limits.

    A process for each takes half a second of importing; what the process adds is tested without it.
    """
    monkeypatch.setattr(
        chat_template, "_apart", lambda asked: json.dumps(render_all(json.loads(asked)))
    )
