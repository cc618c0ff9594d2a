import pytest
import torch


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Networks so small gain nothing from a second thread; and nothing is to be downloaded."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
