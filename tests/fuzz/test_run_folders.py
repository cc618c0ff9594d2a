"""Folders of runs in which something is damaged, missing, or another thing than it was."""

import shutil
from pathlib import Path

import pytest
from damage import damaged
from endings import assert_ends_clearly
from hypothesis import given, settings
from hypothesis import strategies as st

READING = (
    ("evaluate", "run"),
    ("evaluate", "run", "--checkpoint", "best"),
    ("evaluate", "run", "--weights", "run/folded.safetensors"),
    ("steps", "run", "--output", "steps.png"),
    ("fold", "run", "--output", "plain.safetensors"),
    ("report", "run", "--output", "page.html"),
)
WRITTEN = ("steps.png", "plain.safetensors", "page.html")


def spoil(data, path):
    """Do something to a file that is there."""
    how = data.draw(st.sampled_from(["damaged", "damaged", "gone", "folder", "link", "other"]))
    content = path.read_bytes()
    path.unlink()
    if how == "damaged":
        path.write_bytes(data.draw(damaged(content)))
    elif how == "folder":
        path.mkdir()
    elif how == "link":
        path.symlink_to("nowhere")
    elif how == "other":
        others = sorted(p for p in Path("run").rglob("*") if p.is_file())
        shutil.copy(data.draw(st.sampled_from(others)), path)


@given(st.data())
def test_reading(fresh, data):
    command = data.draw(st.sampled_from(READING))
    files = sorted(path for path in fresh().rglob("*") if path.is_file())
    for path in data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=3, unique=True)):
        spoil(data, path)
    for path in WRITTEN:
        Path(path).unlink(missing_ok=True)
    assert_ends_clearly(*command, may_write=WRITTEN)


@pytest.mark.slow
@settings(max_examples=settings.default.max_examples * 2 // 5)  # trainings take longer
@given(st.data())
def test_resuming(fresh, data):
    files = sorted(path for path in fresh().rglob("*") if path.is_file())
    for path in data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=3, unique=True)):
        spoil(data, path)
    assert_ends_clearly("train", "--resume", "run", may_write=["run"])
