"""Two trainings with one seed have the same bits; the switch for kernels of which that is true."""

from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from trainings import assert_identical, assert_same_end, at_step, checkpoint, start, train_alone

from timestepper.errors import ConfigurationError
from timestepper.training.determinism import deterministic_kernels


@pytest.mark.slow
def test_two_processes_with_one_seed_and_two_threads():
    context = get_context("forkserver")
    places = [str(Path(name).absolute()) for name in ("one", "other")]
    processes = [context.Process(target=train_alone, args=(place, 2, 2)) for place in places]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert_same_end(*places)


def test_another_seed_gives_other_weights():
    start("one", epochs=1)
    start("other", epochs=1, seed=1)
    with pytest.raises(AssertionError):
        assert_identical(checkpoint("one")["network"], checkpoint("other")["network"])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_switch(precision, monkeypatch):
    seen = []

    def look(trainer):
        seen.append(torch.are_deterministic_algorithms_enabled())

    at_step(monkeypatch, 1, look)
    for folder in ("one", "other"):
        start(folder, epochs=1, deterministic=True, precision=precision)
    assert seen == [True]
    assert not torch.are_deterministic_algorithms_enabled()
    assert_same_end("one", "other")


def test_on_one_cpu_it_is_no_other_kernel():
    start("one", epochs=1, deterministic=True)
    start("without", epochs=1)
    assert_same_end("one", "without")


def test_operation_without_such_a_kernel():
    """One of the few that have none on CPUs either."""
    values = torch.zeros(3)
    with (
        pytest.raises(ConfigurationError, match=r"without a deterministic kernel \(.+\); leave"),
        deterministic_kernels(True),
    ):
        values.put_(torch.tensor([0, 0]), torch.ones(2))
    assert not torch.are_deterministic_algorithms_enabled()


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"), deterministic_kernels(True):
        torch.zeros(2, 3) @ torch.zeros(2, 3)
    with deterministic_kernels(False):
        assert not torch.are_deterministic_algorithms_enabled()
