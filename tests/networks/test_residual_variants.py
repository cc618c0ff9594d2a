"""Each variant against its formula, written out."""

import copy
import csv
import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, pad

import timestepper
from timestepper.cli import main
from timestepper.errors import ConfigurationError
from timestepper.networks import VARIANTS, CifarResNet, create

DEPTH, PER_STAGE = 14, 2
BLOCKS = 3 * PER_STAGE


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make(variant, depth=DEPTH, disturb=False, seed=0, **options):
    """Build a network; disturbed, every parameter and statistic has a value of its own."""
    torch.manual_seed(seed)
    network = CifarResNet(depth, variant=variant, **options)
    if disturb:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.uniform_(-0.5, 0.5)
                    module.running_var.uniform_(0.5, 1.5)
    return network


def blocks_of(network):
    return [*network.layer1, *network.layer2, *network.layer3]


def shortcut_of(block, x):
    if block.downsample is not None:
        return block.downsample(x)
    zeros = (block.conv2.out_channels - block.conv1.in_channels) // 2
    return pad(x[:, :, :: block.stride, :: block.stride], (0, 0, 0, 0, zeros, zeros))


def branch_of(block, x, variant):
    """Compute a branch in eval mode from the block's tensors."""
    state = dict(block.named_parameters()) | dict(block.named_buffers())

    def norm(x, name):
        if variant == "skip_init":
            return x
        mean, var = (state[f"{name}.running_{what}"].view(1, -1, 1, 1) for what in ("mean", "var"))
        normalised = (x - mean) / (var + 1e-5).sqrt()
        return normalised * wide(state[f"{name}.weight"]) + wide(state[f"{name}.bias"])

    x = conv2d(x, state["conv1.weight"], state.get("conv1.bias"), block.stride, 1)
    x = norm(x, "bn1").clamp(min=0)
    x = norm(conv2d(x, state["conv2.weight"], state.get("conv2.bias"), 1, 1), "bn2")
    if variant == "layer_scale":
        return x * wide(state["branch_end.gamma"])
    if variant in ("rezero", "skip_init"):
        return x * state["branch_end.scale"]
    if variant == "squeeze_excitation":
        squeezed = x.mean((2, 3))
        first, second = (state[f"branch_end.fc{i}.weight"].flatten(1) for i in (1, 2))
        hidden = (squeezed @ first.T + state["branch_end.fc1.bias"]).clamp(min=0)
        gate = 1 / (1 + torch.exp(-(hidden @ second.T + state["branch_end.fc2.bias"])))
        return x * gate[:, :, None, None]
    return x


def wide(vector):
    return vector.view(1, -1, 1, 1)


def explicit(network, variant, x, steps=None):
    """Compute a network in eval mode, each branch times its step sizes."""
    x = network.bn1(network.conv1(x)).relu()
    for number, block in enumerate(blocks_of(network)):
        step = 1 if steps is None else wide(steps[number])
        x = (shortcut_of(block, x) + step * branch_of(block, x, variant)).relu()
    return network.fc(x.mean((2, 3)))


@pytest.mark.parametrize("shortcut", ["pad", "project"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_formula(variant, shortcut):
    network = make(variant, disturb=True, shortcut=shortcut).eval()
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(network(x), explicit(network, variant, x), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shortcut", ["pad", "project"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_are_the_draws_of_the_plain_network(variant, shortcut):
    plain, network = (make(name, shortcut=shortcut).state_dict() for name in ("plain", variant))
    shared = [key for key in plain if not key.endswith("bn2.weight") and key in network]
    assert all(torch.equal(plain[key], network[key]) for key in shared)
    convolutions = {key for key in plain if plain[key].ndim == 4}
    assert convolutions | {"fc.weight", "fc.bias"} <= set(shared)


def test_plain_is_the_default_and_adds_nothing():
    torch.manual_seed(0)
    default, named = CifarResNet(DEPTH), make("plain")
    assert list(default.state_dict()) == list(named.state_dict())
    tensors = zip(default.state_dict().values(), named.state_dict().values(), strict=True)
    assert all(torch.equal(first, second) for first, second in tensors)
    assert repr(default) == repr(named)
    assert not any("branch_end" in name for name, _ in named.named_modules())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("controller", [0.5, "indp"])
def test_half_gamma_is_a_fresh_time_stepped_network(controller, training):
    stepped, half = timestepper.attach(make("plain"), controller), make("half_gamma")
    x = torch.randn(4, 3, 8, 8)
    if not training:  # with statistics that are not those of the start
        stepped(x), half(x)
    outputs = [network.train(training)(x) for network in (stepped, half)]
    assert torch.allclose(*outputs, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(outputs[0], make("plain").train(training)(x), rtol=0.01)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", ["zero_gamma", "rezero", "skip_init"])
def test_identity_at_the_start(variant, training):
    network = make(variant).train(training)
    x = torch.randn(3, 16, 8, 8).relu()
    for stage in (network.layer1, network.layer2, network.layer3):
        expected = x
        for block in stage:
            expected = shortcut_of(block, expected).relu()
        x = stage(x)
        assert torch.equal(x, expected)


@pytest.mark.parametrize(("depth", "start"), [(38, 0.1), (44, 1e-5), (50, 1e-5), (56, 1e-6)])
def test_layer_scale_starts_as_cait_prescribes(depth, start):
    """38 layers are 18 blocks, 50 are 24."""
    gammas = [block.branch_end.gamma for block in blocks_of(make("layer_scale", depth))]
    assert [len(gamma) for gamma in gammas[:: len(gammas) // 3]] == [16, 32, 64]
    assert all((gamma == start).all() for gamma in gammas)


@pytest.mark.parametrize("variant", ["half_gamma", "root_gamma", "zero_gamma"])
def test_only_the_last_gamma_differs_from_plain(variant):
    plain, network = make("plain").state_dict(), make(variant).state_dict()
    differing = [key for key in plain if not torch.equal(plain[key], network[key])]
    assert differing == [key for key in plain if key.startswith("layer") and "bn2.weight" in key]
    assert len(differing) == BLOCKS
    value = {"half_gamma": 0.5, "root_gamma": (BLOCKS / 3) ** -0.5, "zero_gamma": 0.0}[variant]
    for key in differing:
        assert torch.allclose(network[key], torch.full_like(network[key], value), rtol=1e-6)


@pytest.mark.parametrize("shortcut", ["pad", "project"])
def test_skip_init_has_biases_and_no_norm(shortcut):
    network = make("skip_init", shortcut=shortcut)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 1 + 2 * BLOCKS + (2 if shortcut == "project" else 0)
    assert all((convolution.bias == 0).all() for convolution in convolutions)


def test_squeeze_excitation_starts_he_normal():
    weights = [block.branch_end.fc2.weight for block in make("squeeze_excitation", 56).layer3]
    assert torch.cat(weights).std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)


def survival(number):
    return 1 - number / BLOCKS * (1 - 0.5)


def test_stochastic_depth_decays_linearly_to_a_half():
    ends = [block.branch_end for block in blocks_of(make("stochastic_depth"))]
    kept = [1 - end.drop_prob for end in ends]
    assert kept == pytest.approx([survival(number) for number in range(1, BLOCKS + 1)], abs=1e-15)
    assert kept[-1] == 0.5


def test_stochastic_depth_is_plain_in_eval_mode():
    plain, network = (make(v, disturb=True).eval() for v in ("plain", "stochastic_depth"))
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(plain(x), network(x))


def test_stochastic_depth_drops_each_image_by_itself():
    """What stays is divided by its probability, so that the expectation is the branch."""
    block, draws = blocks_of(make("stochastic_depth"))[-1], 2000
    x = torch.rand(1, 64, 3, 3).expand(draws, -1, -1, -1)
    block.bn2.eval(), block.bn1.eval()
    branch = branch_of(block, x[:1], "plain")
    dropped, kept = x[:1], (x[:1] + branch / survival(BLOCKS)).relu()
    y = block(x)
    is_kept = (y - kept).flatten(1).abs().amax(1) < 1e-12
    is_dropped = (y - dropped).flatten(1).abs().amax(1) < 1e-12
    assert (is_kept ^ is_dropped).all()
    share, deviation = is_kept.double().mean().item(), (0.25 / draws) ** 0.5
    assert abs(share - survival(BLOCKS)) < 4 * deviation
    mean = block.branch_end(branch.expand(draws, -1, -1, -1)).mean(0)
    assert (mean - branch[0]).abs().max() < 4 * 2 * deviation * branch.abs().max()


def extra_parameters(variant, n):
    """Parameters beyond the plain network's, n blocks in each stage of 16, 32, 64 channels."""
    scalars, channels = 3 * n, n * (16 + 32 + 64)
    return {
        "layer_scale": channels,
        "rezero": scalars,
        # A norm has two vectors, the bias in its place is one; two norms a block, one in the stem.
        "skip_init": scalars - (2 * channels + 16),
        "squeeze_excitation": n * sum(2 * c * (c // 16) + c // 16 + c for c in (16, 32, 64)),
    }.get(variant, 0)


@pytest.mark.parametrize("depth", [14, 32])
@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters(variant, depth):
    plain, network = (
        sum(p.numel() for p in make(v, depth).parameters()) for v in ("plain", variant)
    )
    assert network - plain == extra_parameters(variant, (depth - 2) // 6)


@pytest.mark.parametrize("controller", ["lstm", "indp"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_time_stepping_on_top(variant, controller):
    """Attached, each branch is multiplied by Δt; folded, the variant is what it was."""
    network = make(variant, disturb=True).eval()
    plain, x = copy.deepcopy(network), torch.randn(2, 3, 8, 8)
    timestepper.attach(network, controller)
    with torch.no_grad():
        for parameter in network.time_stepping.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    steps = list(timestepper.step_sizes(network).values())
    attached = network(x)
    expected = explicit(plain, variant, x, steps)
    assert torch.allclose(attached, expected, rtol=1e-11, atol=1e-12)
    assert not torch.allclose(attached, plain(x), rtol=1e-3)
    timestepper.fold(network)
    assert torch.equal(network(x), attached)
    assert list(network.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("controller", ["lstm", "indp"])
def test_gradient_of_a_step_size_is_that_of_what_it_multiplies(controller):
    """docs/alternatives.md: ∂L/∂z = (1 - Δt)(γ ∂L/∂γ + β ∂L/∂β), z the sigmoid's argument."""
    network = timestepper.attach(make("plain", disturb=True), controller)
    with torch.no_grad():
        for parameter in network.time_stepping.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    steps = timestepper.step_sizes(network)
    outputs = network(torch.randn(5, 3, 8, 8))
    nn.functional.cross_entropy(outputs, torch.arange(5)).backward()
    for stage, of_stage in network.time_stepping.items():
        expected = []
        for name in (name for name in steps if name.startswith(stage)):
            norm = network.get_submodule(name).bn2
            product = norm.weight * norm.weight.grad + norm.bias * norm.bias.grad
            expected.append((1 - steps[name]) * product)
        assert len(expected) == PER_STAGE
        if controller == "indp":
            gradient, of_z = of_stage.logits.grad, torch.stack(expected)
        else:
            gradient, of_z = of_stage.project_out.bias.grad, sum(expected)
        assert torch.allclose(gradient, of_z, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", ["re_zero", "squeeze-excitation", "half"])
def test_unknown_variant(name):
    with pytest.raises(ConfigurationError, match=f"no variant is called '{name}'; did you mean"):
        create("cifar_resnet8", variant=name)


@pytest.mark.parametrize("name", ["batch_ensemble_of_nothing_xyz", None, 3])
def test_a_variant_that_is_like_none(name):
    with pytest.raises(ConfigurationError) as refused:
        create("cifar_resnet8", variant=name)
    assert str(refused.value).startswith(f"no variant is called {name!r}; ")


def test_command_line(capsys):
    torch.set_default_dtype(torch.float32)
    options = ("--network.options", "{variant: skip_init}", "--stepping.controller", "none")
    assert main(["train", "--recipe", "smoke", *options, "--folder", "run"]) == 0
    with Path("run", "metrics.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert 0 < float(row["train_loss"]) < 2 * math.log(10)
    capsys.readouterr()
    assert main(["train", "--recipe", "smoke", "--network.options.variant", "rezro"]) == 2
    assert "did you mean 'rezero'?" in capsys.readouterr().err


def test_the_code_of_the_page_runs(capsys):
    torch.set_default_dtype(torch.float32)
    text = (Path(__file__).parents[2] / "docs/alternatives.md").read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "alternatives.md", "exec"), names)
    promised = re.findall(r"  # prints (.*)", text)
    assert capsys.readouterr().out.splitlines() == promised
    assert len(promised) == 2
    listed = re.findall(r"^\| `(\w+)` \|", text.partition("## The alternatives")[2], re.MULTILINE)
    assert listed == ["variant", *VARIANTS]
