"""SGD in any memory format: the numbers, state and checkpoints of torch's."""

import copy

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from timestepper import networks
from timestepper.training.optimizer import ChannelsLastSGD, load_optimizer

SETTINGS = (
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "maximize": True},
)


def make_network(dtype=torch.float64):
    torch.manual_seed(0)
    network = networks.create("torchvision/resnet18", num_classes=3)
    return network.to(dtype=dtype, memory_format=torch.channels_last)


def give_gradients(network, seed):
    torch.manual_seed(seed)
    images = torch.randn(2, 3, 32, 32, dtype=next(network.parameters()).dtype)
    network.zero_grad()
    network(images.to(memory_format=torch.channels_last)).square().sum().backward()


@pytest.mark.parametrize("settings", SETTINGS)
def test_as_torch(settings) -> None:
    ours, theirs = make_network(), make_network()
    optimizer = ChannelsLastSGD(ours.parameters(), **settings)
    reference = torch.optim.SGD(theirs.parameters(), **settings, foreach=False)
    for seed in range(3):
        for network, one in ((ours, optimizer), (theirs, reference)):
            give_gradients(network, seed)
            # One that has no gradient stays as it is.
            network.fc.bias.grad = None
            one.step()
    assert any(not p.is_contiguous() for p in ours.parameters())
    for ours_p, theirs_p in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours_p, theirs_p, rtol=1e-12, atol=1e-14)
        assert ours_p.stride() == theirs_p.stride()
    state, expected = optimizer.state_dict()["state"], reference.state_dict()["state"]
    assert {key: set(value) for key, value in state.items()} == {
        key: {name for name, kept in value.items() if kept is not None}
        for key, value in expected.items()
        if any(kept is not None for kept in value.values())
    }
    for key, value in state.items():
        torch.testing.assert_close(
            value["momentum_buffer"], expected[key]["momentum_buffer"], rtol=1e-12, atol=1e-14
        )


def test_bit_equal_after_loading_its_state(tmp_path):
    settings = SETTINGS[1]
    network = make_network(torch.float32)
    optimizer = ChannelsLastSGD(network.parameters(), **settings)
    give_gradients(network, 0)
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    other = copy.deepcopy(network)
    again = ChannelsLastSGD(other.parameters(), **settings)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for one, its in ((network, optimizer), (other, again)):
        give_gradients(one, 1)
        its.step()
    for p, q in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_copies_nothing():
    network = make_network(torch.float32)
    optimizer = ChannelsLastSGD(network.parameters(), **SETTINGS[1])
    give_gradients(network, 0)
    optimizer.step()

    def copied(one):
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            one.step()
        return sum(e.count for e in profiler.key_averages() if e.key == "aten::copy_")

    assert copied(optimizer) == 0
    reference = torch.optim.SGD(network.parameters(), **SETTINGS[1], fused=True)
    reference.step()
    # Where torch no longer copies, the class is not needed any more.
    assert copied(reference) > 0


@pytest.mark.parametrize("before", [torch.channels_last, torch.contiguous_format])
def test_going_on_in_another_memory_format(before):
    formats = [torch.channels_last, torch.contiguous_format]
    after = formats[1 - formats.index(before)]
    settings = {"lr": 0.1, "momentum": 0.9}
    weight, *gradients = (torch.randn(8, 4, 3, 3, dtype=torch.float64) for _ in range(3))
    parameters, optimizers = [], []
    for memory_format in (before, after):
        parameter = nn.Parameter(weight.clone(memory_format=memory_format))
        kind = ChannelsLastSGD if memory_format is torch.channels_last else torch.optim.SGD
        parameters.append(parameter)
        optimizers.append(kind([parameter], **settings, fused=True))
    parameters[0].grad = gradients[0].clone(memory_format=before)
    optimizers[0].step()
    with torch.no_grad():
        parameters[1].copy_(parameters[0])
    load_optimizer(optimizers[1], optimizers[0].state_dict())
    parameters[1].grad = gradients[1].clone(memory_format=after)
    optimizers[1].step()
    momentum = 0.9 * gradients[0] + gradients[1]
    expected = weight - 0.1 * (gradients[0] + momentum)
    torch.testing.assert_close(parameters[1].detach(), expected, rtol=1e-12, atol=1e-14)
