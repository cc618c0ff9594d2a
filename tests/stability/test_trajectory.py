"""States against evolution time, compared with what hooks see."""

from itertools import accumulate

import pytest
import timm
import torch
import torchvision
from explicit import Images, make, two_layers

import timestepper
from timestepper import networks
from timestepper.errors import StabilityError
from timestepper.stability.depth import SizeStage
from timestepper.stability.trajectories import trajectory

NETWORKS = {
    "torchvision": lambda: torchvision.models.resnet18(num_classes=5),
    "ours": lambda: networks.create("cifar_resnet20", num_classes=5),
}


@pytest.fixture(params=["plain", "attached", "folded"])
def kind(request):
    return request.param


@pytest.fixture(params=list(NETWORKS))
def network(request, kind):
    torch.manual_seed(0)
    network = NETWORKS[request.param]().eval()
    if kind != "plain":
        timestepper.attach(network)
        for controller in network.time_stepping.children():
            torch.nn.init.normal_(controller.project_out.weight)
    return timestepper.fold(network) if kind == "folded" else network


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def blocks_of(network):
    return [block for n in (1, 2, 3, 4) for block in getattr(network, f"layer{n}", ())]


@torch.no_grad()
def seen_by_hooks(network, images):
    """Return what the first block got, what each block gave, and what the classifier got."""
    blocks, seen = blocks_of(network), []
    handles = [blocks[0].register_forward_pre_hook(lambda m, args: seen.append(args[0].clone()))]
    handles += [
        block.register_forward_hook(lambda m, args, out: seen.append(out.clone()))
        for block in blocks
    ]
    handles.append(network.fc.register_forward_pre_hook(lambda m, args: seen.append(args[0])))
    network(images)
    for handle in handles:
        handle.remove()
    return seen[:-1], seen[-1]


def test_states_are_those_that_hooks_see(network, images):
    states, pooled = seen_by_hooks(network, images)
    result = trajectory(network, images)
    assert len(result.states) == len(blocks_of(network)) + 1
    for state, seen in zip(result.states, states, strict=True):
        torch.testing.assert_close(state, seen, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(result.features[-1], pooled, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(network.fc(result.features[-1]), network(images))


def test_times_are_those_of_the_step_sizes(network, kind, images):
    depth = trajectory(network, images).depth
    if kind == "attached":
        steps = timestepper.step_sizes(network)
        assert depth.names == tuple(steps)
        means = [step.mean().item() for step in steps.values()]
        assert depth.times[-1] == pytest.approx(sum(timestepper.evolution_time(network).values()))
    else:
        means = [1.0] * len(blocks_of(network))
    assert depth.times == pytest.approx([0.0, *accumulate(means)])
    assert depth.stages == tuple(name.partition(".")[0] for name in depth.names)
    assert len(depth.sizes) == len(depth.times) == len(depth.names) + 1


def test_sizes_cut_the_depth_into_stages():
    network = networks.create("cifar_resnet20", num_classes=5).eval()
    depth = trajectory(network, torch.randn(2, 3, 32, 32)).depth
    assert depth.size_stages() == [
        SizeStage("layer1", 0, 3),
        SizeStage("layer2", 4, 6),
        SizeStage("layer3", 7, 9),
    ]
    # The first block changes the number of channels: y_0 is a stage of its own without a name.
    bottlenecks = torchvision.models.resnet50(num_classes=5).eval()
    stages = trajectory(bottlenecks, torch.randn(1, 3, 32, 32)).depth.size_stages()
    assert stages[:2] == [SizeStage("", 0, 0), SizeStage("layer1", 1, 3)]


def test_network_stays_as_it_is(network, images):
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        before = network(images)
    trajectory(network, images)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not network.training
    with torch.no_grad():
        assert torch.equal(network(images), before)


def test_an_image_takes_the_same_way_in_any_batch(images):
    torch.manual_seed(0)
    network = timestepper.attach(Images().double(), example_input=images.double()).eval()
    together = trajectory(network, images.double())
    for number, image in enumerate(images.double().split(1)):
        alone = trajectory(network, image)
        for one, all_of_them in zip(alone.states, together.states, strict=True):
            torch.testing.assert_close(one[0], all_of_them[number], rtol=1e-10, atol=1e-12)


def test_steps_of_a_fixed_size_taken_one_by_one():
    network = make(two_layers, 4, 3)
    inputs = torch.randn(2, 5).double()
    states = [network.first(inputs)]
    for number in range(4):
        states.append(network.advance(states[-1], number, 0.2))
    timestepper.attach(network, 0.2, example_input=inputs)
    result = trajectory(network, inputs)
    assert result.depth.times == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    for state, feature, expected in zip(result.states, result.features, states, strict=True):
        torch.testing.assert_close(state, expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(feature, expected, rtol=1e-10, atol=1e-12)


def test_channels_are_found_where_tokens_come_first():
    torch.manual_seed(0)
    network = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=56, window_size=7, depths=(2, 2, 2, 2)
    ).eval()
    result = trajectory(network, torch.randn(2, 3, 56, 56))
    # Attention has states (n, h, w, C), the MLP (n, h · w, C); they are of one size.
    assert result.states[1].shape == (2, 14, 14, 96)
    assert result.states[2].shape == (2, 196, 96)
    assert [stage.name for stage in result.depth.size_stages()] == [
        f"layers.{n}.blocks" for n in range(4)
    ]
    torch.testing.assert_close(result.features[1], result.states[1].mean((1, 2)))
    torch.testing.assert_close(result.features[2], result.states[2].mean(1))


def test_networks_in_training_mode_are_refused(images):
    with pytest.raises(StabilityError, match="training mode"):
        trajectory(torchvision.models.resnet18(), images)


class Mixing(Images):
    """Joins all images into one before the first step."""

    def forward(self, x):
        return super().forward(x.flatten(0, 1).view(1, -1, *x.shape[2:])[:, :3])


def test_states_that_are_not_one_for_each_image(images):
    network = Mixing().eval()
    with pytest.raises(StabilityError, match=r"state y_0 has shape \(1, 4, 32, 32\)"):
        trajectory(network, images)
