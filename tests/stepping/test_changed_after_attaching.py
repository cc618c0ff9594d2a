"""Networks that changed after step sizes were attached: said, not computed wrongly."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

import timestepper
from timestepper.errors import AttachedError, ConfigurationError, FoldError, StateError
from timestepper.networks import BasicBlock, create


@pytest.fixture
def network():
    torch.manual_seed(0)
    return timestepper.attach(create("cifar_resnet20"), "lstm+")


@pytest.fixture
def pictures():
    return torch.randn(2, 3, 8, 8)


def replace_block(network):
    network.layer3[2] = BasicBlock(64, 64, 1, "pad")


def replace_read(network):
    network.layer3[0].conv1 = copy.deepcopy(network.layer3[0].conv1)


def replace_scaled(network):
    network.layer3[0].bn2 = nn.BatchNorm2d(64)


def replace_controller(network):
    network.time_stepping["layer3"] = copy.deepcopy(network.time_stepping["layer3"])


def prune_read(network):
    prune.l1_unstructured(network.layer3[0].conv1, "weight", 0.3)


def prune_scaled(network):
    prune.l1_unstructured(network.layer3[0].bn2, "weight", 0.3)


CHANGES = {
    replace_block: "layer3.2.conv1 is no part of the network any more",
    replace_read: "layer3.0.conv1 was replaced after attaching",
    replace_scaled: "layer3.0.bn2 was replaced after attaching",
    replace_controller: "the controller of stage 'layer3' was replaced",
    prune_read: "the weight of layer3.0.conv1 is no parameter any more",
    prune_scaled: "layer3.0.bn2.weight is no parameter any more",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("training", [True, False])
def test_passes_say_what_changed(network, pictures, change, training):
    network.train(training)(pictures)
    change(network)
    with pytest.raises(AttachedError, match=CHANGES[change]):
        network(pictures)


@pytest.mark.parametrize("verb", [timestepper.fold, timestepper.step_sizes])
@pytest.mark.parametrize("change", [replace_block, replace_controller])
def test_verbs_say_what_changed(network, verb, change):
    change(network)
    with pytest.raises(AttachedError, match=CHANGES[change]):
        verb(network)


def test_a_sequential_networks_end(pictures):
    plain = create("cifar_resnet8")
    network = nn.Sequential(*plain.children(), nn.Flatten())
    branches = [
        timestepper.Branch(f"{stage}.0", str(stage), (f"{stage}.0.conv1",), (f"{stage}.0.bn2",))
        for stage, part in enumerate(network)
        if isinstance(part, nn.Sequential)
    ]
    timestepper.attach(network, branches=branches)
    network[-1] = nn.Identity()
    with pytest.raises(AttachedError, match="time_stepping, the network's last child"):
        network(pictures)


def test_branches_that_are_left_out_are_not_missed(network, pictures):
    block = network.layer3[2]
    forward = block.forward
    block.forward = lambda x: x
    network(pictures).sum().backward()
    block.forward = forward
    network(pictures).sum().backward()


def test_pruned_channels_are_averaged_as_they_are(network, pictures):
    for block in (*network.layer1, *network.layer2, *network.layer3):
        kept = block.conv1.out_channels // 2
        block.conv1.weight = nn.Parameter(block.conv1.weight.detach()[:kept].clone())
        block.conv2.weight = nn.Parameter(block.conv2.weight.detach()[:, :kept].clone())
        for name in ("weight", "bias"):
            vector = nn.Parameter(getattr(block.bn1, name).detach()[:kept].clone())
            setattr(block.bn1, name, vector)
        block.bn1.running_mean = block.bn1.running_mean[:kept]
        block.bn1.running_var = block.bn1.running_var[:kept]
    # One average for each kernel of conv1 is gone, which its controller has weights for.
    with pytest.raises(ConfigurationError, match=r"layer1.* reads 288 averages, not 216"):
        network(pictures)


def tie(network):
    for block in network.layer3:
        block.bn2.weight = network.layer3[0].bn2.weight


def test_two_branches_can_not_share_a_parameter(network):
    plain = create("cifar_resnet20")
    branches = timestepper.find_branches(plain)
    tie(plain)
    with pytest.raises(FoldError, match=r"layer3.0.bn2.weight and layer3.1.bn2.weight are one"):
        timestepper.attach(plain, branches=branches)
    tie(network)
    with pytest.raises(FoldError, match=r"layer3.0.bn2.weight and layer3.1.bn2.weight are one"):
        timestepper.fold(network)


def test_parts_are_attached_once(network):
    around = nn.Sequential(network, nn.Flatten())
    with pytest.raises(AttachedError, match="its part 0 has step sizes already"):
        timestepper.attach(around)


@pytest.mark.parametrize("controller", ["lstm", "lstm+", "2fc"])
def test_norms_in_float32_beside_bfloat16(controller, pictures):
    network = create("cifar_resnet8").bfloat16()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    pictures = pictures.bfloat16()
    timestepper.attach(network, controller, example_input=pictures)
    network(pictures).sum().backward()
    network.eval()
    with torch.no_grad():
        attached = network(pictures)
        assert torch.equal(timestepper.fold(network)(pictures), attached)


def test_controllers_in_float32_of_a_network_in_bfloat16(pictures):
    network = timestepper.attach(create("cifar_resnet8")).bfloat16().eval()
    network.time_stepping.float()
    with torch.no_grad():
        attached = network(pictures.bfloat16())
        assert torch.equal(timestepper.fold(network)(pictures.bfloat16()), attached)


def test_step_sizes_of_another_shape():
    class Turned(nn.Module):
        def __init__(self, depth, features, channels, hidden):
            super().__init__()
            self.steps = nn.Parameter(torch.ones(channels, depth))

        def forward(self, averaged):
            return self.steps

    network = create("cifar_resnet20")
    with pytest.raises(ConfigurationError, match=r"'layer1' gives step sizes of shape \(16, 3\)"):
        timestepper.attach(network, Turned)
    assert not hasattr(network, "time_stepping")


def test_preserve_needs_positive_step_sizes():
    class Zero(nn.Module):
        def __init__(self, depth, features, channels, hidden):
            super().__init__()
            self.steps = nn.Parameter(torch.zeros(depth, channels))

        def forward(self, averaged):
            return self.steps

    network = create("cifar_resnet8")
    state = copy.deepcopy(network.state_dict())
    with pytest.raises(StateError, match="'layer1' has some that are not positive"):
        timestepper.attach(network, Zero, preserve=True)
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"controller": None}, "a name, a number or a factory, not NoneType"),
        ({"reduction": 2.5}, "a whole number of at least 1, not 2.5"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        timestepper.attach(create("cifar_resnet8"), **options)


@pytest.mark.parametrize("controller", ["lstm", "lstm+", "2fc"])
def test_torch_func(controller, pictures):
    network = timestepper.attach(create("cifar_resnet8").double(), controller).eval()
    pictures = pictures.double()
    expected = network(pictures)
    apart = torch.func.vmap(lambda picture: network(picture[None])[0])(pictures)
    torch.testing.assert_close(apart, expected)
    inside = torch.randn(2, 16, 8, 8).double().requires_grad_()
    (gradient,) = torch.autograd.grad(network.layer1(inside).sum(), inside)
    found = torch.func.grad(lambda z: network.layer1(z).sum())(inside.detach())
    torch.testing.assert_close(found, gradient)


@pytest.mark.parametrize(
    "function", [timestepper.fold, timestepper.step_sizes, timestepper.evolution_time]
)
def test_what_wraps_an_attached_network_is_refused_by_its_place(network, function):
    wrapper = AveragedModel(network)
    said = r"^AveragedModel has no step sizes of its own, .*: name that, \.module$"
    with pytest.raises(AttachedError, match=said):
        function(wrapper)
