"""Dense networks: step sizes equal an explicit product, where the readers normalise."""

import copy
import dataclasses

import pytest
import timm
import torch
import torchvision
from reference import Random
from torch import nn

import timestepper
from timestepper.errors import FoldError
from timestepper.networks import CifarDenseNet, CliqueNet
from timestepper.stepping.factors import factors_of

SMALL = {
    "ours": lambda: CifarDenseNet(13, 6, num_classes=5),
    "ours, bottleneck": lambda: CifarDenseNet(22, 4, bottleneck=True, num_classes=5),
    "CliqueNet": lambda: CliqueNet(8, 9, num_classes=5),
    "torchvision": lambda: torchvision.models.DenseNet(
        growth_rate=8, block_config=(3, 2, 3), num_init_features=8, bn_size=2, num_classes=5
    ),
    "timm": lambda: timm.models.DenseNet(growth_rate=8, block_config=(3, 2, 3), num_classes=5),
}


@pytest.fixture(params=list(SMALL))
def plain(request):
    torch.manual_seed(0)
    network = SMALL[request.param]().double()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    return network


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()


def seen(norm, state, steps):
    """What a reader sees: the normalised state, each layer's channels times its step sizes.

    timm's norms apply ReLU too, which positive factors pass.
    """
    return (norm(torch.cat(state, 1)) * torch.cat(steps)[:, None, None]).relu()


def explicit_dense(network, steps, images):
    """A DenseNet's forward pass with the steps written out; ours, torchvision's or timm's."""
    features = getattr(network, "features", network)
    x = images
    ends = iter([features.transition1, features.transition2])
    for module in features.children():
        layers = [m for m in module.modules() if hasattr(m, "norm1")]
        if not layers:
            x = x if hasattr(module, "pool") else module(x)  # Transitions: below.
            continue
        state, marks = [x], [torch.ones(x.shape[1]).double()]
        for layer in layers:
            read = layer.conv1(seen(layer.norm1, state, marks))
            if hasattr(layer, "conv2"):
                read = layer.conv2(layer.norm2(read).relu())
            state.append(read)
            marks.append(next(steps))
        end = next(ends, None)
        if end is None:
            last = features.norm if features is network else features.norm5
            head = network.fc if features is network else network.classifier
            return head(seen(last, state, marks).mean((2, 3)))
        x = end.pool(end.conv(seen(end.norm, state, marks)))
    raise AssertionError


def explicit_clique(network, steps, images):
    """CliqueNet's forward pass with the steps written out."""
    x, pooled = network.conv(images), []
    for index, (block, norm) in enumerate(zip(network.blocks, network.norms, strict=True)):
        marks = [next(steps) for _ in block.layers]
        ones = torch.ones(x.shape[1]).double()
        features = []
        for i, layer in enumerate(block.layers):
            weight = torch.cat([layer.from_input.weight, layer.from_layers.weight], 1)
            read = seen(layer.norm1, [x, *features], [ones, *marks[:i]])
            features.append(nn.functional.conv2d(read, weight[:, : read.shape[1]], padding=1))
        for i, layer in enumerate(block.layers):
            others = [f for j, f in enumerate(features) if j != i]
            read = seen(layer.norm2, others, [m for j, m in enumerate(marks) if j != i])
            features[i] = layer.from_layers(read)
        pooled.append(seen(norm, [x, *features], [ones, *marks]).mean((2, 3)))
        if index < 2:
            end = network.transitions[index]
            x = end.pool(end.conv(seen(end.norm, features, marks)))
    return network.fc(torch.cat(pooled, 1))


def explicit(network, steps, images):
    forward = explicit_clique if isinstance(network, CliqueNet) else explicit_dense
    return forward(network, iter(steps.values()), images)


@pytest.mark.parametrize("training", [True, False])
def test_step_sizes_equal_the_explicit_product(plain, images, training):
    network = timestepper.attach(copy.deepcopy(plain), Random, example_input=images).train(training)
    steps = timestepper.step_sizes(network)
    plain.train(training)
    ours, theirs = network(images), explicit(plain, steps, images)
    assert not torch.allclose(theirs, plain(images))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    weights = torch.randn_like(ours)
    for result, of in ((ours, network), (theirs, plain)):
        of.zero_grad()
        (result * weights).sum().backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(
            network.get_parameter(name).grad, parameter.grad, rtol=1e-8, atol=1e-10
        )


def test_fold_is_bit_exact(plain, images):
    network, images = plain.float(), images.float()
    keys = list(network.state_dict())
    timestepper.attach(network, example_input=images).train()
    network(images).sum().backward()
    network.eval()
    with torch.no_grad():
        before = network(images)
        assert torch.equal(timestepper.fold(network)(images), before)
    assert list(network.state_dict()) == keys


def test_preserve_changes_nothing(plain, images):
    plain.eval()
    with torch.no_grad():
        before = plain(images)
        timestepper.attach(plain, preserve=True, example_input=images)
        torch.testing.assert_close(plain(images), before, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("library", "name"),
    [("torchvision", "densenet121"), ("timm", "densenet121"), ("timm", "densenetblur121d")],
)
def test_every_layer_is_found(library, name):
    make = torchvision.models.get_model if library == "torchvision" else timm.create_model
    branches = timestepper.find_branches(make(name), torch.zeros(1, 3, 64, 64))
    expected = [
        f"features.denseblock{block + 1}.denselayer{layer + 1}"
        for block, layers in enumerate((6, 12, 24, 16))
        for layer in range(layers)
    ]
    assert [branch.name for branch in branches] == expected
    assert {b.stage for b in branches} == {f"features.denseblock{i}" for i in (1, 2, 3, 4)}
    for branch in branches:
        assert branch.weights == (f"{branch.name}.conv1", f"{branch.name}.conv2")
    # The last layer of all is read by the last norm alone: channels 992 to 1024 of it.
    assert branches[-1].scaled == ("features.norm5",)
    assert branches[-1].channels == ((992, 1024),)


def test_a_batch_norm_undoes_step_sizes_on_the_features():
    """Why step sizes do not go where the paper would have them literally."""
    torch.manual_seed(0)
    images = torch.randn(8, 3, 16, 16).double()
    plain = CifarDenseNet(13, 6).double().train()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-30
    readers = timestepper.find_branches(plain, images)
    features = [dataclasses.replace(b, scaled=b.weights, channels=()) for b in readers]
    moved, gradients = [], []
    for branches in (features, readers):
        network = timestepper.attach(copy.deepcopy(plain), Random, branches=branches)
        result = network(images)
        result.square().sum().backward()
        moved.append((result - plain(images)).norm() / result.norm())
        grads = [p.grad.norm() for p in network.time_stepping.parameters()]
        gradients.append(torch.stack(grads).norm() / result.norm())
    assert moved[0] < 1e-10 < 1e-2 < moved[1]
    assert gradients[0] < 1e-9 < 1e-3 < gradients[1]


class PostNorm(nn.Module):
    """Layers whose features go to convolutions as they are."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(4 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.out = nn.Conv2d(16, 5, 1)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x).relu()], 1)
        return self.out(x)


class Inception(nn.Module):
    """Parallel paths: a concatenation of theirs is no dense one."""

    def __init__(self):
        super().__init__()
        self.paths = nn.ModuleList(nn.Conv2d(3, 4, 1) for _ in range(3))

    def forward(self, x):
        return torch.cat([path(x) for path in self.paths], 1)


def test_features_that_no_norm_reads_are_scaled_themselves():
    torch.manual_seed(0)
    plain, images = PostNorm().double(), torch.randn(2, 3, 8, 8).double()
    network = timestepper.attach(copy.deepcopy(plain), Random, example_input=images)
    steps = timestepper.step_sizes(network)
    assert list(steps) == ["layers.0", "layers.1", "layers.2"]
    x = plain.stem(images)
    for layer, step in zip(plain.layers, steps.values(), strict=True):
        x = torch.cat([x, layer(x).relu() * step[:, None, None]], 1)
    torch.testing.assert_close(network(images), plain.out(x), rtol=1e-10, atol=1e-12)
    before = network(images)
    assert torch.equal(timestepper.fold(network)(images), before)


def test_parallel_paths_are_not_dense():
    with pytest.raises(timestepper.errors.NoBranchError, match="no residual branch"):
        timestepper.find_branches(Inception(), torch.randn(2, 3, 8, 8))


def test_a_branch_names_as_many_ranges_as_parameters(images):
    network = CifarDenseNet(13, 6).double()
    branches = timestepper.find_branches(network, images)
    short = dataclasses.replace(branches[0], channels=branches[0].channels[:1])
    with pytest.raises(timestepper.errors.NoBranchError, match="1 ranges of channels for 3"):
        timestepper.attach(network, branches=[short])
    outside = dataclasses.replace(branches[-1], channels=((200, 206),))
    with pytest.raises(FoldError, match="there are none from 200 to 206"):
        timestepper.attach(network, branches=[outside])
    overlapping = dataclasses.replace(branches[1], channels=branches[0].channels[1:])
    with pytest.raises(FoldError, match=r"block1\.0 and block1\.1 share block1\.2\.norm1"):
        timestepper.attach(network, branches=[branches[0], overlapping])
    other = dataclasses.replace(branches[1], stage="other")
    with pytest.raises(FoldError, match="those of one stage only"):
        timestepper.attach(network, branches=[branches[0], other])
    assert not hasattr(network, "time_stepping")


def test_runs_of_one_stage_are_joined(images):
    """A reader of many layers takes one slice of the step sizes, not one for each layer."""
    network = CifarDenseNet(40, 12)
    stage = [b for b in timestepper.find_branches(network) if b.stage == "block2"]
    last = [f for f in factors_of(network, stage) if f.owner == "transition2.norm"]
    assert [factor.runs for factor in last] == [((None, 160), (0, 144))] * 2


class JoinedLayer(nn.Module):
    """A layer behind a norm, its features beside what it read."""

    def __init__(self, inputs):
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, 4, 3, padding=1)

    def forward(self, x):
        return torch.cat([x, self.conv(self.norm(x).relu())], 1)


class ReturnsItsState(nn.Sequential):
    """Features behind a last norm, and what they were made of."""

    def forward(self, x):
        *layers, norm = self.children()
        for layer in layers:
            x = layer(x)
        return norm(x), x


@pytest.mark.parametrize(
    ("kind", "scaled"),
    [
        (nn.Sequential, [("1.norm", "2"), ("2",)]),
        # Whoever gets the state reads it without a norm.
        (ReturnsItsState, [("0.conv",), ("1.conv",)]),
    ],
)
def test_dense_blocks_of_the_network_s_input_and_output(kind, scaled):
    torch.manual_seed(0)
    network = kind(JoinedLayer(8), JoinedLayer(12), nn.BatchNorm2d(16)).eval()
    images = torch.randn(2, 8, 6, 6)
    branches = timestepper.find_branches(network, images)
    assert [branch.scaled for branch in branches] == scaled
