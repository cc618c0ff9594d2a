"""The notebooks run from top to bottom, and are kept without what running leaves in them."""

import asyncio
import json
import re

import pytest
from pages import ROOT

SECONDS = 180
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def name(notebook):
    return notebook.stem


def test_that_there_are_notebooks():
    assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_nothing_of_a_run_is_kept(notebook):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert content["metadata"].keys() == {"kernelspec", "language_info"}
    assert content["metadata"]["language_info"] == {"name": "python"}
    for cell in content["cells"]:
        assert cell["metadata"] == {}
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_links(notebook):
    for target in re.findall(r"\]\(([^)\s]+)\)", notebook.read_text(encoding="utf-8")):
        assert (notebook.parent / target).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_runs(notebook, tmp_path, monkeypatch):
    """Each as a newcomer runs it: no cell fails, nor an assert in it, and no file is left."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "settings"))  # Not those of this machine.
    here = tmp_path / "here"
    here.mkdir()
    client = nbclient.NotebookClient(
        nbformat.read(notebook, as_version=4), resources={"metadata": {"path": str(here)}}
    )
    asyncio.run(asyncio.wait_for(client.async_execute(), SECONDS))
    assert list(here.iterdir()) == []
