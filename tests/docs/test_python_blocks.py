"""The Python of the pages runs: the blocks of a page in order, with each other's names."""

import re

import pytest
import torch
from pages import NOT_RUN, PAGES, ROOT, name, python_blocks, read

RUN_ELSEWHERE = {
    "docs/alternatives.md": "tests/networks/test_residual_variants.py",
    "docs/dense-networks.md": "tests/stepping/test_docs.py",
    "docs/integrations.md": "tests/integrations/test_examples.py",
    "docs/networks.md": "tests/stepping/test_docs.py",
    "docs/robustness.md": "tests/robustness/test_docs.py",
    "docs/shipping.md": "tests/shipping/test_docs.py",
    "docs/stability.md": "tests/stability/test_docs.py",
    "docs/training-for-stability.md": "tests/stability/test_docs.py",
}
WITH_CODE = [page for page in PAGES if python_blocks(read(page))]
RUN_HERE = [page for page in WITH_CODE if name(page) not in RUN_ELSEWHERE]


@pytest.fixture
def _small():
    """Networks so small gain nothing from a second thread; and no page gets another's dtype."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_blocks_compile(page):
    for block in python_blocks(read(page)):
        compile(block.code, name(page), "exec")


@pytest.mark.parametrize("page", RUN_HERE, ids=name)
@pytest.mark.usefixtures("_small")
def test_blocks_run(page, capsys):
    names: dict[str, object] = {"__name__": "page"}
    for block in python_blocks(read(page)):
        if block.not_run is None:
            exec(compile(block.code, name(page), "exec"), names)
            printed = capsys.readouterr().out.splitlines()
            for promised in re.findall(r"  # prints (.*)", block.code):
                assert promised in printed


@pytest.mark.parametrize(("page", "test"), RUN_ELSEWHERE.items())
def test_blocks_are_run_by_another_test(page, test):
    assert ROOT / page in WITH_CODE
    assert page.rpartition("/")[2] in (ROOT / test).read_text(encoding="utf-8")


def test_what_is_not_run_says_why(capsys):
    reasons = [
        f"{name(page)}: {block.not_run}"
        for page in WITH_CODE
        for block in python_blocks(read(page))
        if block.not_run is not None
    ]
    marked = sum(
        len(NOT_RUN.findall(read(page))) for page in PAGES if name(page) != "docs/layout.md"
    )
    assert marked == len(reasons)  # each mark stands directly before a block
    with capsys.disabled():
        print(f"\n{len(reasons)} Python blocks of the pages are not run:", *reasons, sep="\n  ")
