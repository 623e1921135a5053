"""A real browser draws the report, where one is installed."""

import shutil
import subprocess

import pytest

from tests.report.example_run import write_run
from thinksafe_jax.report import write_report

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1000,1400",
]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_chromium_takes_a_picture_of_the_report(tmp_path):
    path = write_run(tmp_path / "run", rows=20)
    write_report(path)
    picture = tmp_path / "report.png"
    profile = [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}"]
    report = (path / "report/report.html").as_uri()
    command = [str(CHROMIUM), *FLAGS, *profile, report]
    subprocess.run(command, check=True, capture_output=True, timeout=50)
    from matplotlib.image import imread

    pixels = imread(picture)[..., :3]
    assert pixels.shape[:2] == (1400, 1000)
    blue, grey = (0x00 / 255, 0x72 / 255, 0xB2 / 255), (0x9A / 255, 0xA3 / 255, 0xAD / 255)
    for bar in (blue, grey):  # the bars of after and before
        assert (abs(pixels - bar).max(axis=-1) < 0.01).sum() > 500
