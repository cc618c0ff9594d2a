"""Derivatives other than a single backward pass, against one backward pass for each output."""

import pytest
import torch
from torch.autograd import forward_ad

import timestepper
from timestepper.networks import create

CLASSES = 3
PARAMETERS = ("layer1.0.conv2.weight", "layer3.0.bn2.weight")


@pytest.fixture(params=["lstm", "lstm+", "lstm-standardised", "2fc"])
def network(request):
    torch.manual_seed(0)
    plain = create("cifar_resnet8", num_classes=CLASSES).double()
    return timestepper.attach(plain, request.param).eval()


@pytest.fixture(params=["arrays", "torch"], autouse=True)
def way(request, network):
    """Controllers with hooks are run as they are, not in loops over arrays."""
    if request.param == "torch":
        for controller in network.time_stepping.values():
            controller.register_forward_hook(lambda *_: None)


@pytest.fixture
def outputs(network):
    """Return a function of some parameters."""
    pictures = torch.randn(2, 3, 8, 8).double()

    def outputs(*values):
        given = dict(zip(PARAMETERS, values, strict=True))
        return torch.func.functional_call(network, given, (pictures,)).sum(0)

    return outputs


@pytest.fixture
def values(network):
    return tuple(network.get_parameter(name).detach().clone() for name in PARAMETERS)


@pytest.fixture
def jacobian(outputs, values):
    """One backward pass for each output."""
    leaves = [value.clone().requires_grad_() for value in values]
    scores = outputs(*leaves)
    rows = [torch.autograd.grad(score, leaves, retain_graph=True) for score in scores]
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert other.abs().max() > 1e-6
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_many_gradients_at_once(outputs, values, jacobian):
    leaves = [value.clone().requires_grad_() for value in values]
    seeds = torch.eye(CLASSES).double()
    assert_close(
        torch.autograd.grad(outputs(*leaves), leaves, seeds, is_grads_batched=True), jacobian
    )
    assert_close(torch.autograd.functional.jacobian(outputs, values, vectorize=True), jacobian)


def test_reverse_mode_of_torch_func(outputs, values, jacobian):
    assert_close(torch.func.jacrev(outputs, argnums=(0, 1))(*values), jacobian)


def test_forward_mode(outputs, values, jacobian):
    tangents = tuple(torch.randn_like(value) for value in values)
    pairs = zip(jacobian, tangents, strict=True)
    expected = sum(columns.flatten(1) @ tangent.flatten() for columns, tangent in pairs)
    assert_close([torch.func.jvp(outputs, values, tangents)[1]], [expected])
    with forward_ad.dual_level():
        duals = map(forward_ad.make_dual, values, tangents)
        found = forward_ad.unpack_dual(outputs(*duals)).tangent
    assert_close([found], [expected])


def test_forward_over_reverse(outputs, values):
    """A Hessian times a vector, against differences of gradients."""
    tangents = tuple(torch.randn_like(value) for value in values)

    def gradients(*given):
        return torch.func.grad(lambda *g: outputs(*g).square().sum(), argnums=(0, 1))(*given)

    found = torch.func.jvp(gradients, values, tangents)[1]
    step = 1e-5
    shifted = [
        gradients(*(v + sign * step * t for v, t in zip(values, tangents, strict=True)))
        for sign in (1, -1)
    ]
    for one, plus, minus in zip(found, *shifted, strict=True):
        torch.testing.assert_close(one, (plus - minus) / (2 * step), rtol=1e-5, atol=1e-6)
