"""The controllers against the paper's formulas, written out in numpy and scipy."""

import numpy as np
import pytest
import torch
from scipy.special import expit

from timestepper.controllers import (
    FixedController,
    IndependentController,
    LinearRecurrenceController,
    LSTMController,
    TwoLayerController,
    get_factory,
)
from timestepper.errors import ConfigurationError

DEPTH, FEATURES, CHANNELS, HIDDEN = 5, 24, 12, 3


@pytest.fixture
def averaged():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(DEPTH, FEATURES, generator=generator, dtype=torch.float64)


def numbers(module):
    return {name: p.detach().numpy() for name, p in module.named_parameters()}


@pytest.mark.parametrize("standardise", [False, True])
def test_lstm_is_equations_10_to_12(averaged, standardise):
    torch.manual_seed(1)
    lstm = LSTMController(DEPTH, FEATURES, CHANNELS, HIDDEN, standardise=standardise).double()
    torch.nn.init.normal_(lstm.project_out.bias)
    p = numbers(lstm)
    w_gates, b_gates = p["gates.weight"].reshape(4, HIDDEN, -1), p["gates.bias"].reshape(4, -1)
    h, c, expected = np.zeros(HIDDEN), np.zeros(HIDDEN), []
    for w in averaged.numpy():
        if standardise:
            w = (w - w.mean()) / w.std()
        x = np.maximum(p["project_in.weight"] @ w + p["project_in.bias"], 0)
        i, f, o, g = (w_gates[k] @ np.concatenate([x, h]) + b_gates[k] for k in range(4))
        c = expit(f) * c + expit(i) * np.tanh(g)
        h = expit(o) * np.tanh(c)
        expected.append(expit(p["project_out.weight"] @ h + p["project_out.bias"]))
    np.testing.assert_allclose(lstm(averaged).detach().numpy(), expected, rtol=1e-12)


def test_lstm_agrees_with_torch_lstm(averaged):
    ours = LSTMController(DEPTH, FEATURES, CHANNELS, HIDDEN).double()
    theirs = torch.nn.LSTM(HIDDEN, HIDDEN).double()
    with torch.no_grad():
        # Ours is in the order i, f, o, g; theirs in i, f, g, o.
        weight, bias = (
            torch.cat([t[: 2 * HIDDEN], t[3 * HIDDEN :], t[2 * HIDDEN : 3 * HIDDEN]])
            for t in (ours.gates.weight, ours.gates.bias)
        )
        theirs.weight_ih_l0.copy_(weight[:, :HIDDEN])
        theirs.weight_hh_l0.copy_(weight[:, HIDDEN:])
        theirs.bias_ih_l0.copy_(bias)
        theirs.bias_hh_l0.zero_()
        hidden, _ = theirs(ours.project_in(averaged).relu())
        expected = ours.project_out(hidden).sigmoid()
    torch.testing.assert_close(ours(averaged), expected, rtol=1e-12, atol=1e-12)


def test_linear_recurrence_is_its_formulas(averaged):
    torch.manual_seed(1)
    module = LinearRecurrenceController(DEPTH, FEATURES, CHANNELS, HIDDEN).double()
    torch.nn.init.normal_(module.project_in.bias)
    p = numbers(module)
    decay, h, expected = expit(p["decay"]), np.zeros(HIDDEN), []
    for w in averaged.numpy():
        direction = (w - w.mean()) / np.linalg.norm(w - w.mean())
        x = np.tanh(p["project_in.weight"] @ direction + p["project_in.bias"])
        h = decay * h + (1 - decay) * x
        expected.append(expit(p["project_out.weight"] @ h + p["project_out.bias"]))
    np.testing.assert_allclose(module(averaged).detach().numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("depth", [2, 9, 168])
def test_linear_recurrence_starts_with_memories_of_one_block_to_all(depth):
    module = LinearRecurrenceController(depth, FEATURES, CHANNELS, 4)
    memories = -1 / np.log(expit(numbers(module)["decay"]))
    np.testing.assert_allclose(memories, np.geomspace(1, depth, 4), rtol=1e-4)


@pytest.mark.parametrize("depth", [1, 4, 9, 48])
def test_linear_recurrence_starts_around_one_over_the_root_of_depth(depth):
    torch.manual_seed(3)
    module = LinearRecurrenceController(depth, FEATURES, 64, 16)
    start = 0.5 if depth == 1 else depth**-0.5
    torch.testing.assert_close(module.project_out.bias.sigmoid(), torch.full((64,), start))
    steps = module(torch.randn(depth, FEATURES))
    assert steps.mean().item() == pytest.approx(start, rel=0.15)


def test_all_that_linear_recurrence_needs_is_in_its_state(averaged):
    module = LinearRecurrenceController(DEPTH, FEATURES, CHANNELS, HIDDEN).double()
    other = LinearRecurrenceController(DEPTH, FEATURES, CHANNELS, HIDDEN).double()
    other = other.to("meta").to_empty(device="cpu")
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(averaged), module(averaged))


def test_linear_recurrence_looks_back_over_any_depth():
    """The first block's weights still count at the last one, where an LSTM has forgotten them."""
    depth, sensitivity = 168, {}
    for name in ("lstm+", "lstm"):
        torch.manual_seed(5)
        module = get_factory(name)(depth, FEATURES, CHANNELS, HIDDEN).double()
        weights = torch.randn(depth, FEATURES, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(module(weights)[-1].sum(), weights)
        sensitivity[name] = (gradient[0].norm() / gradient[-1].norm()).item()
    assert sensitivity["lstm+"] > depth**-2
    assert sensitivity["lstm"] < 1e-12


@pytest.mark.parametrize("name", ["lstm+", "lstm-standardised"])
def test_standardised_controllers_see_weights_of_any_scale(averaged, name):
    module = get_factory(name)(DEPTH, FEATURES, CHANNELS, HIDDEN).double()
    steps = module(averaged)
    # Averages of a wide layer's fresh weights: standard deviations below 1e-3.
    torch.testing.assert_close(module(1e-4 * averaged + 1), steps, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["lstm+", "lstm-standardised"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_that_are_all_equal_say_nothing(averaged, name, dtype):
    module = get_factory(name)(DEPTH, FEATURES, CHANNELS, HIDDEN).to(dtype)
    weights = averaged.to(dtype)
    weights[0] = 0
    # What averages of equal weights differ by: rounding.
    weights[2] = 0.1 + torch.finfo(dtype).eps * weights[2].sign() / 10
    weights.requires_grad_()
    steps = module(weights)
    assert torch.isfinite(steps).all()
    steps.sum().backward()
    assert not weights.grad[[0, 2]].any()
    assert weights.grad[[1, 3, 4]].any()


def test_two_layer_is_its_formula(averaged):
    module = TwoLayerController(DEPTH, FEATURES, CHANNELS, HIDDEN).double()
    torch.nn.init.normal_(module.bias_out)
    p = numbers(module)
    expected = [
        expit(
            np.maximum(w @ p["weight_in"][d] + p["bias_in"][d], 0) @ p["weight_out"][d]
            + p["bias_out"][d]
        )
        for d, w in enumerate(averaged.numpy())
    ]
    np.testing.assert_allclose(module(averaged).detach().numpy(), expected, rtol=1e-12)


def test_independent_and_fixed(averaged):
    independent = IndependentController(DEPTH, FEATURES, CHANNELS, HIDDEN).double()
    torch.nn.init.normal_(independent.logits)
    expected = expit(independent.logits.detach().numpy())
    np.testing.assert_allclose(independent(averaged).detach().numpy(), expected, rtol=1e-12)
    fixed = FixedController(DEPTH, FEATURES, CHANNELS, HIDDEN, step_size=0.01)
    assert torch.equal(fixed(averaged), torch.full((DEPTH, CHANNELS), 0.01, dtype=torch.float64))
    assert not list(fixed.parameters())


def test_state_of_a_fixed_step_size_is_the_step_size(averaged):
    fixed, other = (get_factory(h)(DEPTH, FEATURES, CHANNELS, HIDDEN) for h in (0.5, 0.1))
    fixed.load_state_dict(other.state_dict())
    assert fixed.step_size == 0.1
    assert torch.equal(fixed(averaged), other(averaged))


def test_state_tells_whether_an_lstm_standardises():
    lstm, standardising = (
        get_factory(name)(DEPTH, FEATURES, CHANNELS, HIDDEN)
        for name in ("lstm", "lstm-standardised")
    )
    with pytest.raises(RuntimeError, match="standardised"):
        lstm.load_state_dict(standardising.state_dict())
    with pytest.raises(RuntimeError, match="standardised"):
        standardising.load_state_dict(lstm.state_dict())


@pytest.mark.parametrize("name", ["lstm", "lstm+", "lstm-standardised", "2fc"])
def test_gradients_against_finite_differences(averaged, name):
    torch.manual_seed(2)
    module = get_factory(name)(DEPTH, FEATURES, CHANNELS, HIDDEN).double()
    names, values = zip(*module.named_parameters(), strict=True)

    def steps(averaged, *values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), averaged)

    assert torch.autograd.gradcheck(steps, (averaged.requires_grad_(), *values))


@pytest.mark.parametrize("name", ["lstm", "2fc", "indp"])
def test_step_sizes_start_near_one_half(averaged, name):
    torch.manual_seed(3)
    steps = get_factory(name)(DEPTH, FEATURES, CHANNELS, HIDDEN).double()(averaged * 0.03)
    assert (steps - 0.5).abs().max() < 0.15
    assert abs(steps.mean().item() - 0.5) < 0.05


def test_lstm_remembers_and_two_layer_does_not(averaged):
    changed = averaged.clone()
    changed[0] = changed[0].flip(0)
    for name, remembers in (("lstm", True), ("lstm+", True), ("2fc", False)):
        module = get_factory(name)(DEPTH, FEATURES, CHANNELS, HIDDEN).double()
        difference = (module(changed) - module(averaged)).abs().amax(1)
        assert difference[0] > 0
        assert bool((difference[1:] > 0).all()) is remembers


def test_names_numbers_and_factories():
    assert get_factory("0.1")(DEPTH, FEATURES, CHANNELS, HIDDEN).step_size == 0.1
    assert get_factory(LSTMController) is LSTMController
    with pytest.raises(ConfigurationError, match=r"unknown controller 'ltsm'; did you mean 'lstm'"):
        get_factory("ltsm")
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigurationError, match="positive and finite"):
            get_factory(value)(DEPTH, FEATURES, CHANNELS, HIDDEN)
