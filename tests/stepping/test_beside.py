"""Controllers beside the network while a CUDA graph is captured: each stage is waited for.

Streams are stand-ins here that write down who waits.
"""

from contextlib import nullcontext

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import timestepper
from timestepper.networks import create
from timestepper.stepping import hooks
from timestepper.stepping.stages import Stage

IMAGES = torch.randn(2, 3, 8, 8, requires_grad=True)


class Stream:
    waited = 0

    def record_event(self):
        return "event"

    def wait_event(self, event):
        assert event == "event"
        Stream.waited += 1


@pytest.fixture
def network(monkeypatch):
    made = timestepper.attach(create("cifar_resnet8"))
    monkeypatch.setattr(Stream, "waited", 0)
    monkeypatch.setattr(hooks, "_beside", lambda network: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: Stream())
    return made


@pytest.fixture
def ready(monkeypatch):
    """Return, for each use of products so far, whether they had been waited for."""
    seen = []
    use = Stage._use

    def watched(stage, inside):
        seen.append(stage.ready is None)
        return use(stage, inside)

    monkeypatch.setattr(Stage, "_use", watched)
    return seen


def test_each_stage_is_waited_for_once(network, ready):
    network(IMAGES)
    assert ready == [True] * 3
    assert Stream.waited == 3


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoints_wait_again(network, ready, use_reentrant):
    checkpoint(network, IMAGES, use_reentrant=use_reentrant).sum().backward()
    assert ready == [True] * 6
    assert Stream.waited == 6


def test_stages_that_a_pass_does_not_come_to_are_waited_for_at_its_end(network):
    network.layer2.register_forward_pre_hook(lambda module, inputs: (inputs[0][:, :1],))
    with pytest.raises(RuntimeError, match="channels"):
        network(IMAGES)
    assert Stream.waited == 3
    assert all(stage.ready is None for stage in network.time_stepping.stages)


def test_what_is_compiled_is_noticed():
    network = create("cifar_resnet8")
    assert not any(map(hooks._is_compiled, network.modules()))
    network.layer1[0].compile()
    assert hooks._is_compiled(network.layer1[0])
    assert hooks._is_compiled(torch.compile(create("cifar_resnet8")))
