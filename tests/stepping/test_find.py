"""What is found in whose networks, and what is refused."""

import dataclasses

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import timestepper
from timestepper.errors import AttachedError, FoldError, NoBranchError, StateError
from timestepper.stepping.branches import average_weights

RESNETS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def named(depths):
    return [f"layer{stage + 1}.{block}" for stage, n in enumerate(depths) for block in range(n)]


@pytest.mark.parametrize("library", ["torchvision", "timm"])
@pytest.mark.parametrize("depth", RESNETS)
def test_resnets_of_every_depth(library, depth):
    make = torchvision.models.get_model if library == "torchvision" else timm.create_model
    with torch.device("meta" if depth > 50 else "cpu"):
        branches = timestepper.find_branches(make(f"resnet{depth}"), torch.zeros(1, 3, 64, 64))
    assert [branch.name for branch in branches] == named(RESNETS[depth])
    assert [branch.stage for branch in branches] == [b.name.split(".")[0] for b in branches]
    read, end = (("conv1", "conv2"), "bn2") if depth < 50 else (("conv1", "conv3"), "bn3")
    for branch in branches:
        assert branch.weights == tuple(f"{branch.name}.{conv}" for conv in read)
        assert branch.scaled == (f"{branch.name}.{end}",)


RESNEXTS = [name for name in timm.list_models("resnext*") if "101" in name or "50" in name]


@pytest.mark.parametrize("name", RESNEXTS)
def test_timm_resnexts(name):
    with torch.device("meta"):  # They have up to half a billion parameters.
        network = timm.create_model(name)
        branches = timestepper.find_branches(network, torch.zeros(1, 3, 64, 64))
    depths = [len(network.get_submodule(f"layer{stage}")) for stage in (1, 2, 3, 4)]
    assert [branch.name for branch in branches] == named(depths)
    assert {branch.scaled[0].rpartition(".")[2] for branch in branches} == {"bn3"}


@pytest.mark.parametrize(
    "name", ["resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2"]
)
def test_torchvision_resnexts(name):
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
        found = timestepper.find_branches(network, torch.zeros(1, 3, 64, 64))
    assert len(found) == (16 if "50" in name else 33)


@pytest.mark.parametrize(
    "name",
    [
        "legacy_seresnet18",
        "test_byobnet",
        "test_coatnet",
        "test_convnext",
        "test_mambaout",
        "test_nfnet",
        "test_vit",
        "efficientvit_m0",
        "ghostnet_050",
    ],
)
def test_other_families_of_timm_fold_bit_for_bit(name):
    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    keys = list(network.state_dict())
    images = torch.randn(1, *network.pretrained_cfg["input_size"])
    with torch.no_grad():
        for parameter in network.parameters():  # some start at zero, which would hide a branch
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
        plain = network(images)
        timestepper.attach(network)
        attached = network(images)
        assert not torch.allclose(attached, plain)
        assert torch.equal(timestepper.fold(network)(images), attached)
    assert list(network.state_dict()) == keys


# method.md, section 3: millions of parameters while training with the LSTM controller, and plain.
@pytest.mark.parametrize(
    ("depth", "trained", "plain"),
    [
        (18, 13.520, 11.690),
        (34, 23.628, 21.798),
        (50, 27.826, 25.557),
        (101, 46.818, 44.549),
    ],
)
def test_parameter_counts_of_the_paper(depth, trained, plain):
    network = torchvision.models.get_model(f"resnet{depth}")
    counts = []
    for change in (timestepper.attach, timestepper.fold):
        change(network)
        counts.append(round(sum(p.numel() for p in network.parameters()) / 1e6, 3))
    assert counts == [trained, plain]


def test_parameter_count_of_two_layer_and_independent():
    two = timestepper.attach(torchvision.models.resnet50(), "2fc")
    assert round(sum(p.numel() for p in two.parameters()) / 1e6, 2) == 31.23
    own = timestepper.attach(torchvision.models.resnet50(), "indp")
    assert sum(p.numel() for p in own.time_stepping.parameters()) == 15104  # Σ L_b C_b


def test_watching_changes_nothing(home_made):
    home_made.train()
    home_made.layer1[1].eval()
    modes = [m.training for m in home_made.modules()]
    state = {name: t.clone() for name, t in home_made.state_dict().items()}
    random = torch.get_rng_state()
    timestepper.find_branches(home_made)
    assert [m.training for m in home_made.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(t, state[name]) for name, t in home_made.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in home_made.modules())


def test_branches_are_immutable_and_can_be_given(home_made, images):
    found = timestepper.find_branches(home_made)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found[0].name = "other"
    timestepper.attach(home_made, branches=found[:2])
    assert list(timestepper.step_sizes(home_made)) == ["layer1.0", "layer1.1"]
    home_made(images).sum().backward()


def test_own_factory_gets_the_sizes(home_made, images):
    asked = []

    class Constant(nn.Module):
        def __init__(self, depth, features, channels, hidden):
            super().__init__()
            asked.append((depth, features, channels, hidden))
            self.logits = nn.Parameter(torch.zeros(depth, channels))

        def forward(self, averaged):
            assert averaged.shape == (3, 144)
            return self.logits.exp()

    timestepper.attach(home_made, Constant, reduction=2)
    assert asked == [(3, 2 * 9 * 8, 8, 4)]
    assert timestepper.evolution_time(home_made) == {"layer1": 3.0}
    home_made(images)


class Transformer(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.blocks = nn.Sequential(*(TransformerBlock(width) for _ in range(3)))

    def forward(self, x):
        return self.blocks(x.flatten(2).transpose(1, 2)[..., :8])


class TransformerBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attn = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def test_two_branches_in_one_module():
    x = torch.randn(2, 8, 3, 3)
    network = Transformer().double().eval()
    branches = timestepper.find_branches(network, x.double())
    assert [b.name for b in branches[:2]] == ["blocks.0.attn", "blocks.0.mlp"]
    assert {b.stage for b in branches} == {"blocks.attn", "blocks.mlp"}
    timestepper.attach(network, branches=branches)
    with torch.no_grad():
        before = network(x.double())
        assert torch.equal(timestepper.fold(network)(x.double()), before)


def test_average_weights_and_its_gradient():
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3, 3, 3), (2, 5), (4, 6, 3, 3), (2, 7)]
    weights = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    rows = average_weights(2, weights)
    expected = [
        torch.cat([w.mean(1).flatten() for w in weights[:2]]),
        torch.cat([w.mean(1).flatten() for w in weights[2:]]),
    ]
    torch.testing.assert_close(rows, torch.stack(expected))
    inputs = [weight.requires_grad_() for weight in weights]
    assert torch.autograd.gradcheck(lambda *w: average_weights(2, w), inputs)
    assert torch.autograd.gradgradcheck(lambda *w: average_weights(2, w).exp(), inputs)


def test_gradients_of_averages_are_divided_together():
    class Divisions(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func is torch.ops.aten.div.Tensor
            return func(*args, **(kwargs or {}))

    weights = [torch.randn(4, inputs, 3, 3, requires_grad=True) for inputs in (3, 5) * 4]
    averages = average_weights(2, weights)
    with Divisions() as divisions:
        averages.sum().backward()
    assert divisions.count == 2


def sequential(*modules):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(*modules)

        def forward(self, x):
            return x + self.body(x)

    return nn.Sequential(nn.Conv2d(3, 4, 1), Residual())


class SkipOver(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.blocks = blocks

    def forward(self, x):
        return x + self.blocks(x)


def test_sequential_network_still_runs():
    network = sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)).eval()
    plain = network(torch.ones(1, 3, 8, 8))
    timestepper.attach(network, 1.0)
    torch.testing.assert_close(network(torch.ones(1, 3, 8, 8)), plain)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.SiLU()), "ends in silu"),
        (sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False)), "1.body.1"),
    ],
)
def test_ends_that_do_not_fold_are_refused(network, message):
    with pytest.raises(FoldError, match=message):
        timestepper.attach(network)
    assert not hasattr(network, "time_stepping")


def test_wrong_use_has_clear_errors(home_made):
    with pytest.raises(NoBranchError, match="no residual branch was found in Sequential"):
        timestepper.attach(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()))
    with pytest.raises(NoBranchError, match=r"shape \(1, 3, 64, 64\).*example_input="):
        timestepper.attach(nn.Sequential(nn.Linear(7, 7)))
    for verb in (timestepper.fold, timestepper.step_sizes, timestepper.evolution_time):
        with pytest.raises(AttachedError, match="has no step sizes"):
            verb(home_made)
    wrong = timestepper.Branch("layer1.0", "layer1", ("layer1.0.conv9",), "layer1.0.bn2")
    with pytest.raises(NoBranchError, match=r"no module 'layer1\.0\.conv9'"):
        timestepper.attach(home_made, branches=[wrong])
    timestepper.attach(home_made)
    with pytest.raises(AttachedError, match="has step sizes already"):
        timestepper.attach(home_made)
    state = home_made.state_dict()
    del state["fc.bias"]
    with pytest.raises(StateError, match=r"fc\.bias is missing"):
        timestepper.load_weights(home_made, state)
    with pytest.raises(StateError, match="tensors by name, a state dict, not a str"):
        timestepper.load_weights(home_made, "weights.pt")
    state = home_made.state_dict() | {"fc.bias": torch.zeros(7)}
    with pytest.raises(StateError, match=r"fc\.bias is \(7,\) where the network has \(5,\)"):
        timestepper.load_weights(home_made, state)


def test_default_devices_do_not_matter():
    network = torchvision.models.resnet18()
    expected = timestepper.find_branches(network)
    with torch.device("meta"):  # stands for torch.set_default_device("cuda")
        assert timestepper.find_branches(network) == expected


def test_a_skip_over_very_many_blocks():
    """Each block's addition is one more operation that the outer branch is followed through."""
    depth = 400
    blocks = nn.Sequential(*(sequential(nn.Conv2d(4, 4, 1))[1] for _ in range(depth)))
    network = nn.Sequential(nn.Conv2d(3, 4, 1), SkipOver(blocks)).double()
    images = torch.randn(1, 3, 2, 2).double()
    with pytest.raises(FoldError, match=r"ends in add .*more operations than can be followed"):
        timestepper.attach(network, example_input=images)
    branches = timestepper.find_branches(network, images, skip_unfoldable=True)
    assert len(branches) == depth
    expected = state = network[0](images)
    for block in blocks:
        state = state + 0.5 * block.body(state)
    expected = expected + state
    timestepper.attach(network, 0.5, branches=branches)
    torch.testing.assert_close(network(images), expected, rtol=1e-10, atol=1e-12)
