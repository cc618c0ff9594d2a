"""What step sizes depend on, with controllers that depend on what they are told to."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import timestepper
from timestepper.errors import AttachedError, ExplanationError
from timestepper.networks import create

DEPTH, CHANNELS, FEATURES = 3, 16, 288
"""Of the first stage of a CIFAR ResNet-20."""
FALLING = torch.tensor([1.0, 0.0, -1.0]).double()
BENT = torch.tensor([1.0, -2.0, 1.0]).double()
"""Zero in the mean, and orthogonal to the one before."""
ACROSS = torch.linspace(-1, 1, CHANNELS).double()


class Made(nn.Module):
    """Maps averaged weights to step sizes by a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, averaged):
        return self.function(averaged)


def explained(function, values=FALLING):
    """Explain the first stage where each weight of block d has one value and a function maps."""

    def factory(depth, features, channels, hidden):
        return Made(function if channels == CHANNELS else lambda averaged: averaged[:, :channels])

    network = timestepper.attach(create("cifar_resnet20").double(), factory)
    with torch.no_grad():
        for block, value in zip(network.layer1, values, strict=True):
            block.conv1.weight.fill_(value)
            block.conv2.weight.fill_(value)
    return timestepper.explain(network)["layer1"]


def shares(explanation):
    return explanation.channel, explanation.position, explanation.weights


def grid(along, across=None):
    """Step sizes that vary along the blocks and across the channels."""
    return 0.5 + along[:, None] + (torch.zeros(CHANNELS).double() if across is None else across)


def test_the_channel_alone():
    explanation = explained(lambda averaged: grid(torch.zeros(DEPTH), ACROSS))
    assert shares(explanation) == pytest.approx((1, 0, 0), abs=1e-12)
    assert explanation.deviation == pytest.approx(ACROSS.square().mean().sqrt().item())
    assert not explanation.sensitivity.any()


def test_the_position_alone():
    explanation = explained(lambda averaged: grid(0.1 * FALLING))
    assert shares(explanation) == pytest.approx((0, 1, 0), abs=1e-12)
    assert explanation.deviation == pytest.approx(0.1 * math.sqrt(2 / 3))
    assert not explanation.sensitivity.any()


def test_own_weights_alone():
    explanation = explained(lambda averaged: grid(0.1 * averaged.mean(1)))
    assert shares(explanation) == pytest.approx((0, 0, 1), abs=1e-12)
    assert explanation.deviation == pytest.approx(0.1 * math.sqrt(2 / 3))
    # A random vector of w̄'s length √F |v| has a mean of standard deviation |v| / √F.
    expected = (0.1 * FALLING.abs() / math.sqrt(FEATURES)).diag()
    torch.testing.assert_close(explanation.sensitivity, expected)
    assert explanation.own == pytest.approx(0.1 * 2 / 3 / math.sqrt(FEATURES))
    assert explanation.earlier == 0


def test_weights_of_the_block_before_alone():
    def function(averaged):
        before = averaged.mean(1).roll(1)
        return grid(torch.cat([torch.zeros_like(before[:1]), before[1:]]))

    explanation = explained(function, torch.tensor([2.0, -1.0, -1.0]))
    assert shares(explanation) == pytest.approx((0, 0, 1), abs=1e-12)
    expected = torch.zeros(3, 3).double()
    expected[1, 0], expected[2, 1] = 2 / math.sqrt(FEATURES), 1 / math.sqrt(FEATURES)
    torch.testing.assert_close(explanation.sensitivity, expected)
    assert explanation.own == 0
    assert explanation.earlier == pytest.approx((2 + 1) / 3 / math.sqrt(FEATURES))


def test_all_earlier_blocks_at_once():
    explanation = explained(lambda averaged: grid(averaged.mean(1).cumsum(0)), torch.ones(3))
    each = torch.ones(3, 3).double().tril() / math.sqrt(FEATURES)
    torch.testing.assert_close(explanation.sensitivity, each)
    assert explanation.earlier == pytest.approx((0 + 1 + math.sqrt(2)) / 3 / math.sqrt(FEATURES))


@pytest.mark.parametrize(
    ("bent", "falling", "expected"),
    [
        # Variances across 0.01 · Σa²/16, of BENT 2 · 0.04, of the weights 2/3 · 0.09.
        (0.2, 0.0, (0.2**2 * 2, 0.3**2 * 2 / 3)),
        # Together: (β² + βγ, γ² + βγ) · 2/3; against each other a share is negative.
        (0.0, 0.1, ((0.1**2 + 0.1 * 0.3) * 2 / 3, (0.3**2 + 0.1 * 0.3) * 2 / 3)),
        (0.0, -0.1, ((0.1**2 - 0.1 * 0.3) * 2 / 3, (0.3**2 - 0.1 * 0.3) * 2 / 3)),
    ],
)
def test_a_sum_of_all(bent, falling, expected):
    explanation = explained(
        lambda averaged: grid(
            bent * BENT + falling * FALLING + 0.3 * averaged.mean(1), 0.1 * ACROSS
        )
    )
    variances = (0.01 * ACROSS.square().mean().item(), *expected)
    assert explanation.deviation == pytest.approx(math.sqrt(sum(variances)))
    assert shares(explanation) == pytest.approx([v / sum(variances) for v in variances])


def test_equal_step_sizes_have_no_shares():
    for tiny in (0.0, 1e-16):
        explanation = explained(lambda averaged, tiny=tiny: grid(tiny * FALLING))
        assert explanation.deviation <= tiny
        assert all(map(math.isnan, shares(explanation)))
    assert explained(lambda averaged: grid(1e-13 * FALLING)).position == pytest.approx(1, abs=0.01)


def test_sensitivity_of_a_linear_controller():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(DEPTH, CHANNELS, DEPTH, FEATURES, generator=generator).double()
    values = torch.tensor([0.3, -0.2, 0.7]).double()
    explanation = explained(lambda averaged: torch.einsum("dcjf,jf->dc", matrix, averaged), values)
    for d in range(DEPTH):
        for j in range(DEPTH):
            length = abs(values[j]) * math.sqrt(FEATURES)
            expected = matrix[d, :, j].square().sum().sqrt() * length
            expected /= math.sqrt(FEATURES * CHANNELS)
            torch.testing.assert_close(explanation.sensitivity[d, j], expected)


def attached(controller, name="cifar_resnet20"):
    torch.manual_seed(0)
    return timestepper.attach(create(name), controller)


@pytest.mark.parametrize("controller", ["lstm", "lstm-standardised", "2fc"])
def test_sensitivity_against_finite_differences(controller):
    network = attached(controller).double()
    stage = network.time_stepping.stages[0]
    averaged = stage.averaged().detach()
    jacobian = torch.empty(DEPTH, CHANNELS, DEPTH, FEATURES).double()
    with torch.no_grad():
        for j in range(DEPTH):
            for f in range(FEATURES):
                small = torch.zeros_like(averaged)
                small[j, f] = 1e-6
                rise = stage.controller(averaged + small) - stage.controller(averaged - small)
                jacobian[:, :, j, f] = rise / 2e-6
    expected = jacobian.square().sum((1, 3)).sqrt() * averaged.norm(dim=1)
    found = timestepper.explain(network)["layer1"].sensitivity
    torch.testing.assert_close(
        found, expected / math.sqrt(FEATURES * CHANNELS), rtol=1e-5, atol=1e-12
    )
    assert not found.triu(1).any()
    assert (found.tril(-1) > 0).sum() == (0 if controller == "2fc" else 3)


def test_sensitivity_is_the_mean_change_in_random_directions():
    network = attached("lstm").double()
    stage = network.time_stepping.stages[0]
    averaged = stage.averaged().detach()
    generator = torch.Generator().manual_seed(0)
    squares = []
    with torch.no_grad():
        before = stage.controller(averaged)
        for _ in range(1000):
            changed = averaged.clone()
            vector = torch.randn(FEATURES, generator=generator).double()
            changed[1] += 1e-5 * vector / vector.norm() * averaged[1].norm()
            squares.append((stage.controller(changed) - before).square().mean(1) / 1e-10)
    expected = torch.stack(squares).mean(0).sqrt()
    found = timestepper.explain(network)["layer1"].sensitivity[:, 1]
    torch.testing.assert_close(found, expected, rtol=0.1, atol=1e-12)


@pytest.mark.parametrize("controller", ["lstm", "lstm-standardised", "2fc", "indp"])
def test_shares_add_to_one(controller):
    network = attached(controller)
    with torch.no_grad():
        for parameter in network.time_stepping.parameters():
            parameter.add_(torch.randn_like(parameter))
    explanations = timestepper.explain(network)
    assert list(explanations) == ["layer1", "layer2", "layer3"]
    steps = timestepper.step_sizes(network)
    for stage, explanation in explanations.items():
        assert sum(shares(explanation)) == pytest.approx(1, abs=1e-12)
        assert explanation.blocks == tuple(f"{stage}.{number}" for number in range(3))
        rows = torch.stack([steps[name] for name in explanation.blocks])
        assert explanation.deviation == pytest.approx(rows.std(correction=0).item(), rel=1e-4)
        assert explanation.sensitivity.shape == (3, 3)


def test_without_weights_position_has_all_but_the_channel():
    network = attached("indp")
    assert all(math.isnan(e.position) for e in timestepper.explain(network).values())
    with torch.no_grad():
        network.time_stepping["layer1"].logits.normal_()
    explanation = timestepper.explain(network)["layer1"]
    assert explanation.weights == 0
    assert 0.1 < explanation.channel < 0.9
    assert explanation.position == pytest.approx(1 - explanation.channel)
    assert not explanation.sensitivity.any()


class Recurrent(nn.Module):
    """What a user may write: a library's recurrence, with dropout and a statistic."""

    def __init__(self, depth, features, channels, hidden):
        super().__init__()
        self.norm = nn.BatchNorm1d(features)
        self.recurrence = nn.GRU(features, channels)
        self.dropout = nn.Dropout(0.5)

    def forward(self, averaged):
        return self.recurrence(self.dropout(self.norm(averaged)))[0].sigmoid()


def test_nothing_of_the_network_changes():
    network = attached(Recurrent).train()
    network(torch.randn(2, 3, 32, 32)).sum().backward()
    network.layer1[0].conv1.weight.requires_grad_(False)
    network.layer2.eval()
    before = copy.deepcopy(network)
    gradients = copy.deepcopy([parameter.grad for parameter in network.parameters()])
    state = torch.get_rng_state()
    first, again = timestepper.explain(network), timestepper.explain(network)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first["layer1"].sensitivity, again["layer1"].sensitivity)
    assert (first["layer1"].sensitivity.tril() > 0).sum() == 6
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before.state_dict()[name])
    wanted = [parameter.requires_grad for parameter in before.parameters()]
    assert [parameter.requires_grad for parameter in network.parameters()] == wanted
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)
    modes = [module.training for module in before.modules()]
    assert [module.training for module in network.modules()] == modes


@pytest.mark.parametrize(
    "surroundings",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_it_does_not_matter_where_it_is_called(surroundings):
    network = attached("lstm")
    expected = timestepper.explain(network)["layer2"]
    with surroundings():
        found = timestepper.explain(network)["layer2"]
    assert shares(found) == pytest.approx(shares(expected), abs=1e-4)
    torch.testing.assert_close(found.sensitivity, expected.sensitivity)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_of_low_precision_are_explained_in_float32(dtype):
    network = attached("lstm+").to(dtype)
    found = timestepper.explain(network)["layer2"]
    expected = timestepper.explain(network.float())["layer2"]
    assert found.weights > 0.1
    # The averages of the weights are rounded to the network's precision.
    assert shares(found) == pytest.approx(shares(expected), rel=0.05)
    assert found.sensitivity.dtype == torch.float32


class Keeping(nn.Module):
    """A controller that keeps what it said last."""

    def __init__(self, depth, features, channels, hidden):
        super().__init__()
        self.linear = nn.Linear(features, channels)

    def forward(self, averaged):
        self.last = self.linear(averaged).sigmoid()
        return self.last


def test_controllers_that_cannot_be_copied():
    network = attached(Keeping)
    timestepper.explain(network)
    network(torch.randn(1, 3, 32, 32))
    with pytest.raises(ExplanationError, match="controller of stage layer1 can't be copied; let"):
        timestepper.explain(network)


def test_stages_of_one_block_are_left_out():
    network = create("cifar_resnet20")
    branches = timestepper.find_branches(network, torch.zeros(1, 3, 32, 32))
    branches[0] = replace(branches[0], stage="first")
    timestepper.attach(network, branches=branches)
    assert [len(e.blocks) for e in timestepper.explain(network).values()] == [2, 3, 3]
    with pytest.raises(ExplanationError, match="every stage of the network has one block only"):
        timestepper.explain(attached("lstm", "cifar_resnet8"))


def test_refusals():
    network = create("cifar_resnet20")
    with pytest.raises(AttachedError, match="has no step sizes"):
        timestepper.explain(network)
    timestepper.fold(timestepper.attach(network))
    with pytest.raises(AttachedError, match="has no step sizes"):
        timestepper.explain(network)
    with pytest.raises(ExplanationError, match=r"all step sizes are fixed at 0\.1; take"):
        timestepper.explain(attached(0.1))
    with pytest.raises(ExplanationError, match="nothing to explain on the meta device"):
        timestepper.explain(attached("lstm").to("meta"))
