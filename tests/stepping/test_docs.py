"""The code of the pages on networks runs, one block after the other."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("page", "count"), [("networks.md", 4), ("dense-networks.md", 2)])
def test_the_code_of_a_page_runs(page, count, capsys):
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == count
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    printed = capsys.readouterr().out
    promised = re.findall(r"  # prints (.*)", text)
    assert all(line in printed for line in promised)
    assert promised or page == "networks.md"
    branches = names["branches"]
    assert list(names["timestepper"].step_sizes(names["network"])) == [b.name for b in branches]
