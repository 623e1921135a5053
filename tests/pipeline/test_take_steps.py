"""What is said of a training before its steps are taken."""

import pytest

from tests.training import kit
from thinksafe_jax.pipeline.take_steps import warn_of_no_rate


@pytest.mark.parametrize(("warmup_ratio", "steps", "said"), [(0.1, 1, 1), (0.1, 2, 0), (0, 1, 0)])
def test_a_run_whose_only_step_has_no_rate_is_said(warmup_ratio, steps, said, caplog):
    """Its adapter would be the base model, and look like one that was trained."""
    warn_of_no_rate(kit.setup(kit.settings(warmup_ratio=warmup_ratio)), steps)
    assert caplog.text.count("nothing is learnt. Set it to 0") == said
