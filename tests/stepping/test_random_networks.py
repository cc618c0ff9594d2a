"""Step sizes in random networks: what is found equals Eq. 13 written out, and folds exactly."""

import contextlib
import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_networks import SIZE, Maker, Stepped
from torch import nn

import timestepper
from timestepper.errors import FoldError, NoBranchError


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class RandomSteps(nn.Module):
    """A controller of different step sizes for each branch and channel."""

    def __init__(self, depth, features, channels, hidden):
        super().__init__()
        self.steps = nn.Parameter(torch.rand(depth, channels) + 0.5)

    def forward(self, averaged):
        return self.steps + 0


def find(network, images):
    try:
        branches = timestepper.find_branches(network, images, skip_unfoldable=True)
    except NoBranchError:
        return []
    with contextlib.suppress(FoldError):
        assert timestepper.find_branches(network, images) == branches
    return branches


def explicit(plain, branches, steps):
    """Tell each branch of a plain network its step sizes."""
    stepped = {name: m for name, m in plain.named_modules() if isinstance(m, Stepped)}
    for branch in branches:
        # A dense layer is called what all of its parameters are in.
        owners = [name for name in stepped if f"{branch.name}.".startswith(f"{name}.")]
        stepped[max(owners, key=len)].steps = steps[branch.name].clone()
    return plain


def run(network, images, weights):
    """Compute outputs, and gradients of inputs and parameters by name."""
    images = images.clone().requires_grad_()
    torch.manual_seed(0)  # for dropout
    output = network(images)
    named = {name: p for name, p in network.named_parameters() if "time_stepping" not in name}
    # One loss that depends on every output in its own way.
    gradients = torch.autograd.grad(
        (output * weights).sum(), [images, *named.values()], materialize_grads=True
    )
    return output, dict(zip(["images", *named], gradients, strict=True))


def assert_equals_the_explicit_product(network, images, tolerance, name):
    """Compare outputs and gradients; return whether there was a branch."""
    plain = copy.deepcopy(network)
    branches = find(network, images)
    if not branches:
        return False
    timestepper.attach(network, RandomSteps, branches=branches)
    reference = explicit(copy.deepcopy(plain), branches, timestepper.step_sizes(network))
    weights = torch.randn_like(network.eval()(images))
    for training in (False, True):
        output, gradients = run(network.train(training), images, weights)
        expected, expected_gradients = run(reference.train(training), images, weights)
        torch.testing.assert_close(output, expected, rtol=tolerance, atol=tolerance, msg=name)
        for parameter, gradient in expected_gradients.items():
            scale = gradient.abs().max().item() + 1e-2
            torch.testing.assert_close(
                gradients[parameter],
                gradient,
                rtol=0,
                atol=tolerance * scale,
                msg=f"{name}: {parameter}",
            )
    assert_folds(network, images, name)
    assert network.state_dict().keys() == plain.state_dict().keys()
    return True


def assert_folds(network, images, name):
    output = network.eval()(images)
    assert torch.equal(timestepper.fold(network)(images), output), name


@pytest.mark.parametrize("first", range(0, 90, 10))
def test_random_networks_equal_the_explicit_product(first):
    tried = 0
    for seed in range(first, first + 10):
        network, images = Maker(seed).network(), torch.randn(2, 3, SIZE, SIZE)
        tried += assert_equals_the_explicit_product(network, images, 1e-9, str(seed))
    assert tried >= 3


@given(st.randoms(use_true_random=False), st.integers(0, 2**32 - 1))
def test_networks_of_hypothesis(source, seed):
    network, images = Maker(seed, source).network(), torch.randn(2, 3, SIZE, SIZE)
    assert_equals_the_explicit_product(network, images, 1e-9, f"{seed}, {network}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(st.randoms(use_true_random=False), st.integers(0, 2**32 - 1))
def test_folding_is_exact_in_other_precisions(dtype, source, seed):
    network, images = Maker(seed, source).network().to(dtype), torch.randn(2, 3, SIZE, SIZE)
    images = images.to(dtype)
    if branches := find(network, images):
        timestepper.attach(network, "lstm", branches=branches)
        assert_folds(network, images, f"{seed}, {network}")


def test_step_sizes_of_one_change_nothing():
    for seed in range(20):
        network, images = Maker(seed).network(), torch.randn(2, 3, SIZE, SIZE)
        branches = find(network, images)
        if branches:
            stepped = timestepper.attach(copy.deepcopy(network), 1.0, branches=branches)
            assert torch.equal(stepped.eval()(images), network.eval()(images)), seed
            folded = timestepper.fold(stepped).state_dict()
            assert all(torch.equal(folded[name], t) for name, t in network.state_dict().items())
