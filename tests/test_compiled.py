"""Loops that numba compiles."""

import errno

import numpy as np
import pytest
from numba.core.caching import IndexDataCacheFile

from timestepper.compiled import compiled


def doubled(values):
    return 2 * values


@pytest.fixture
def kept(monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path))
    return lambda: [path.suffix for path in tmp_path.rglob("*.nb*")]


def test_keeps_what_was_compiled(kept):
    first, second = compiled(doubled), compiled(doubled)
    assert first(np.ones(2)).tolist() == [2, 2]
    assert sorted(kept()) == [".nbc", ".nbi"]
    assert second(np.ones(2)).tolist() == [2, 2]
    assert sum(second.stats.cache_hits.values()) == 1


def test_full_disk(kept, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(IndexDataCacheFile, "save", fail)
    loops = compiled(doubled)
    for _ in range(2):
        assert loops(np.ones(2)).tolist() == [2, 2]
    assert not kept()


@pytest.mark.parametrize("length", [0, 20])
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_damaged_files_are_made_anew(kept, tmp_path, suffix, length):
    compiled(doubled)(np.ones(2))
    (damaged,) = tmp_path.rglob(f"*{suffix}")
    damaged.write_bytes(damaged.read_bytes()[:length])
    assert compiled(doubled)(np.ones(2)).tolist() == [2, 2]
    last = compiled(doubled)
    assert last(np.ones(2)).tolist() == [2, 2]
    assert sum(last.stats.cache_hits.values()) == 1
