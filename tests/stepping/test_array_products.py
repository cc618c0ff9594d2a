"""Compiled loops compute what the controllers' own forward and autograd do."""

import copy
import sys
from dataclasses import replace
from functools import partial

import numba
import numpy as np
import pytest
import torch
from home_made import HomeMade
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

import timestepper
from timestepper import stepping
from timestepper.controllers import CONTROLLERS, LSTMController
from timestepper.controllers.arrays import ArrayController
from timestepper.controllers.standardise import standardised, standardised_arrays
from timestepper.errors import ConfigurationError
from timestepper.networks import create
from timestepper.stepping import array_products as array_products_module
from timestepper.stepping import stages
from timestepper.stepping.array_products import array_products

WRITTEN_IN_ARRAYS = ["lstm", "lstm+", "lstm-standardised"]


@pytest.fixture
def taken(monkeypatch):
    """Whether the way was taken, stage by stage in every pass."""
    calls = []

    def watched(*arguments):
        products = array_products(*arguments)
        if not is_in_torch_dispatch_mode():  # Attaching watches a pass.
            calls.append(products is not None)
        return products

    monkeypatch.setattr(stages, "array_products", watched)
    return calls


def in_torch(*arguments):
    """Stand in for array_products, so that all goes the general way."""


def results(network, images):
    """Output and all gradients of one pass."""
    network.zero_grad()
    output = network(images)
    output.square().sum().backward()
    gradients = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    return {"output": output.detach(), **gradients}


def assert_same(found, expected, bound=1e-10):
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        scale = expected[name].abs().max().clamp_min(1e-12)
        assert ((tensor - expected[name]).abs().max() / scale).item() < bound, name


@pytest.mark.parametrize("controller", WRITTEN_IN_ARRAYS)
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_arrays_against_forward_and_autograd(controller, depth):
    torch.manual_seed(depth)
    module = CONTROLLERS[controller](depth, 24, 12, 3).double()
    assert isinstance(module, ArrayController)
    averaged = (torch.randn(depth, 24).double() * 0.3).requires_grad_()
    with torch.no_grad():
        averaged[-1] = 0.2  # equal weights: nothing to standardise
        for operand in module.operands():
            operand.copy_(torch.randn_like(operand))
    assert {id(p) for p in module.parameters()} == {id(p) for p in module.operands()}
    steps = module(averaged)
    grad_steps = torch.randn_like(steps)
    expected = torch.autograd.grad(steps, (averaged, *module.operands()), grad_steps)
    given = [tensor.detach().numpy() for tensor in (averaged, *module.operands())]
    before = [array.copy() for array in given]
    found, done = module.forward_arrays(*given)
    torch.testing.assert_close(torch.from_numpy(found), steps.detach(), rtol=1e-12, atol=0)
    gradients = module.backward_arrays(grad_steps.numpy(), done, *given)
    for gradient, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(gradient), reference, rtol=1e-9, atol=1e-12)
    for array, unchanged in zip(given, before, strict=True):
        assert (array == unchanged).all()


@pytest.mark.parametrize("controller", WRITTEN_IN_ARRAYS)
def test_arrays_that_do_not_fit_are_refused(controller):
    module = CONTROLLERS[controller](2, 24, 12, 3)
    given = [np.zeros((2, 24), np.float32), *(p.detach().numpy() for p in module.operands())]
    module.forward_arrays(*given)
    for place in range(len(given)):
        cut = [one[:, :-1] if one.ndim == 2 else one[:-1] for one in [given[place]]]
        with pytest.raises(ValueError, match="do not fit"):
            module.forward_arrays(*given[:place], *cut, *given[place + 1 :])


def test_parameters_of_another_shape_are_left_to_torch(home_made, images, taken):
    network = timestepper.attach(home_made)
    network.time_stepping.layer1.project_in = torch.nn.Linear(3, 2)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        network(images)
    network.time_stepping.layer1.project_in = torch.nn.Linear(144, 2)
    network.layer1[0].bn2.weight = torch.nn.Parameter(torch.ones(7))
    with pytest.raises(RuntimeError):
        network(images)
    assert taken == [False, False]


@pytest.mark.parametrize("controller", WRITTEN_IN_ARRAYS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_networks_against_the_general_way(
    home_made, images, taken, monkeypatch, controller, dtype, bound
):
    images = images.to(dtype)
    network = timestepper.attach(home_made.to(dtype), controller)
    found = results(network, images)
    assert taken == [True]
    monkeypatch.setattr(stages, "array_products", in_torch)
    assert_same(found, results(network, images), bound)


@pytest.mark.parametrize("controller", WRITTEN_IN_ARRAYS)
@pytest.mark.parametrize("way", ["arrays", "general"])
def test_second_derivatives(home_made, images, taken, monkeypatch, controller, way):
    if way == "general":
        monkeypatch.setattr(stages, "array_products", in_torch)
    network = timestepper.attach(home_made.double(), controller).eval()
    parameters = list(network.parameters())
    torch.manual_seed(1)
    direction = [torch.randn_like(parameter) for parameter in parameters]

    def gradients(create_graph):
        loss = network(images.double()).square().mean()
        return torch.autograd.grad(loss, parameters, create_graph=create_graph)

    first = gradients(create_graph=True)
    known = [place for place, grad in enumerate(first) if grad is not None]
    along = sum((first[place] * direction[place]).sum() for place in known)
    found = torch.autograd.grad(along, [parameters[p] for p in known])
    shifted = []
    for length in (1e-7, -1e-7):
        with torch.no_grad():
            for parameter, one in zip(parameters, direction, strict=True):
                parameter.add_(length * one)
        shifted.append(gradients(create_graph=False))
        with torch.no_grad():
            for parameter, one in zip(parameters, direction, strict=True):
                parameter.sub_(length * one)
    for place, second in zip(known, found, strict=True):
        expected = (shifted[0][place] - shifted[1][place]) / 2e-7
        torch.testing.assert_close(second, expected, rtol=1e-5, atol=1e-7)
    assert taken == ([True] * 3 if way == "arrays" else [])


def test_gradients_use_what_saved_tensors_unpack_to(home_made, images, taken):
    network = timestepper.attach(home_made.double())
    expected = results(network, images.double())
    network.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda kept: kept):
        loss = network(images.double()).square().sum()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    loss.backward()
    del expected["output"]
    assert_same({name: p.grad for name, p in network.named_parameters()}, expected)
    assert taken == [True, True]


def test_scales_of_other_shapes_and_runs_of_ones(taken, monkeypatch):
    torch.manual_seed(0)
    network = timestepper.attach(create("cifar_densenet40_k12").double())
    images = torch.randn(2, 3, 32, 32).double()
    found = results(network, images)
    assert taken == [True] * len(network.time_stepping.stages)
    assert any(start is None for stage in network.time_stepping.stages for start, _ in stage.runs)
    monkeypatch.setattr(stages, "array_products", in_torch)
    assert_same(found, results(network, images))


class Overriding(LSTMController):
    def forward(self, averaged):
        return 0.25 + 0 * super().forward(averaged)


def wide(hidden, depth, features, channels, narrow):
    """As many numbers as ImageNet's networks have in their last stages."""
    return LSTMController(depth, features, channels, hidden)


def with_gaps(network):
    """Keep a weight's numbers apart in memory."""
    weight = network.layer1[0].conv1.weight
    weight.data = torch.stack([weight.data, weight.data], -1)[..., 0]
    return network


class TooFew(LSTMController):
    def forward(self, averaged):
        return super().forward(averaged)

    def forward_arrays(self, averaged, *operands):
        steps, done = super().forward_arrays(averaged, *operands)
        return steps[:, 1:], done


def test_step_sizes_of_another_shape_are_refused(images):
    network = timestepper.attach(HomeMade(), TooFew)
    with pytest.raises(ConfigurationError, match=r"TooFew gives step sizes of shape \(3, 7\), not"):
        network(images)


class OneForEach(torch.nn.Module):
    """Step sizes of 1 by a module of the user's own."""

    def __init__(self, depth, features, channels, hidden):
        super().__init__()
        self.ones = torch.nn.Parameter(torch.ones(depth, channels))

    def forward(self, averaged):
        return self.ones


@pytest.mark.parametrize(
    "change",
    {
        "another controller": lambda: timestepper.attach(HomeMade(), OneForEach),
        "an overridden forward": lambda: timestepper.attach(HomeMade(), Overriding),
        "no weights": lambda: timestepper.attach(HomeMade(), "indp"),
        "a large controller": lambda: timestepper.attach(HomeMade(), partial(wide, 200)),
        "bfloat16": lambda: timestepper.attach(HomeMade()).bfloat16(),
        "weights with gaps": lambda: timestepper.attach(with_gaps(HomeMade())),
    }.items(),
    ids=lambda item: item[0],
)
def test_what_goes_the_general_way(images, taken, change):
    network = change[1]()
    network(images.to(next(network.parameters()).dtype)).sum().backward()
    assert taken == [False]


def test_hooks_on_controllers_are_run(home_made, images, taken):
    network = timestepper.attach(home_made)
    controller = network.time_stepping["layer1"]
    hook = controller.register_forward_hook(lambda module, inputs, steps: 0 * steps + 1)
    with_ones = network(images)
    assert taken == [False]
    hook.remove()
    assert not torch.allclose(network(images), with_ones)
    assert taken == [False, True]


class Tripling(torch.nn.Linear):
    def forward(self, x):
        return 3 * super().forward(x)


@pytest.mark.parametrize("change", ["class", "instance"])
def test_replaced_layers_of_a_controller_are_run(home_made, images, taken, change):
    network = timestepper.attach(home_made, "lstm+").eval()
    layer = network.time_stepping["layer1"].project_in
    if change == "class":
        network.time_stepping["layer1"].project_in = tripling = Tripling(144, 2)
        tripling.load_state_dict(layer.state_dict())
    else:
        layer.forward = lambda x: 3 * torch.nn.Linear.forward(layer, x)
    steps = torch.cat([*timestepper.step_sizes(network).values()])
    with torch.no_grad():
        output = network(images)
        network.time_stepping["layer1"].project_in = layer
        layer.__dict__.pop("forward", None)
        layer.weight *= 3
        layer.bias *= 3
        torch.testing.assert_close(network(images), output)
    assert taken == [False, True]
    torch.testing.assert_close(torch.cat([*timestepper.step_sizes(network).values()]), steps)


def test_transformed_networks_go_the_general_way(home_made, images, taken):
    network = timestepper.attach(home_made.double(), "lstm+").eval()
    parameters = dict(network.named_parameters())

    def loss(parameters):
        return torch.func.functional_call(network, parameters, (images.double(),)).square().sum()

    gradients = torch.func.grad(loss)(parameters)
    assert taken == [False]
    expected = results(network, images.double())
    assert_same(gradients, {name: expected[name] for name in gradients})


def test_the_backward_pass_has_what_the_forward_pass_had(home_made, images, taken):
    network = timestepper.attach(home_made.double())
    expected = results(network, images.double())
    network.zero_grad()
    loss = network(images.double()).square().sum()
    with torch.no_grad():
        for parameter in network.time_stepping.parameters():
            parameter.add_(1.0)
    loss.backward()
    del expected["output"]
    assert_same({name: p.grad for name, p in network.named_parameters()}, expected)
    assert taken == [True, True]


class Towers(torch.nn.Module):
    """Two networks in one: what a pass runs through is up to the caller."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = HomeMade(), HomeMade()

    def forward(self, images, which=("left", "right")):
        return [getattr(self, one)(images) for one in which]


@pytest.fixture
def towers():
    """Step sizes in both, with a controller of its own for each."""
    return attach_towers(Towers().double())


def attach_towers(network):
    branches = timestepper.find_branches(Towers())
    return timestepper.attach(
        network, branches=[replace(one, stage=one.name.partition(".")[0]) for one in branches]
    )


def test_two_losses_go_back_in_turn(towers, images, taken):
    left, right = towers(images.double())
    (left.square().sum() + right.square().sum()).backward()
    expected = {name: p.grad.clone() for name, p in towers.named_parameters()}
    towers.zero_grad()
    left, right = towers(images.double())
    left.square().sum().backward()
    before = {name for name, p in towers.named_parameters() if p.grad is not None}
    assert before == {
        name
        for name, _ in towers.named_parameters()
        if name.startswith(("left", "time_stepping.left"))
    }
    right.square().sum().backward()
    assert_same({name: p.grad for name, p in towers.named_parameters()}, expected)
    assert taken == [True] * 4


def test_stages_that_a_pass_leaves_out_get_no_gradients(towers, images, taken):
    (left,) = towers(images.double(), which=("left",))
    left.sum().backward()
    assert all((p.grad is None) == ("right" in name) for name, p in towers.named_parameters())
    loss = towers(images.double(), which=("left",))[0].square().sum()
    wanted = list(towers.left.parameters())
    grads = torch.autograd.grad(loss, wanted, create_graph=True)
    second = torch.autograd.grad(sum(grad.square().sum() for grad in grads), wanted)
    assert all(grad.isfinite().all() for grad in second)
    assert taken == [True] * 4


def test_frozen_stages_stay_out_of_the_graph(towers, images, taken):
    towers.left.requires_grad_(False)
    towers.time_stepping.left.requires_grad_(False)
    left, right = towers(images.double())
    assert not left.requires_grad
    assert right.requires_grad
    assert taken == [True, True]


def test_one_loss_goes_back_and_the_other_twice(towers, images):
    left, right = towers(images.double())
    left.square().sum().backward()
    wanted = list(towers.right.parameters())
    grads = torch.autograd.grad(right.square().sum(), wanted, create_graph=True)
    second = torch.autograd.grad(sum(grad.square().sum() for grad in grads), wanted)
    assert all(grad.isfinite().all() for grad in second)


def test_hooks_on_what_a_pass_leaves_out_are_not_run(towers, images):
    called = []
    for name, parameter in towers.named_parameters():
        parameter.register_hook(lambda grad, name=name: called.append(name))
        parameter.register_post_accumulate_grad_hook(
            lambda parameter, name=name: called.append(name)
        )
    towers(images.double())[0].sum().backward()
    assert any("left" in name for name in called)
    assert not any("right" in name for name in called)


def tie_convolutions(network):
    network.layer1[1].conv1.weight = network.layer1[0].conv1.weight
    return network


def tie_norms(network):
    network.layer1[1].bn2.weight = network.layer1[0].bn2.weight
    return network


def freeze_all_but_a_vector(network):
    network.requires_grad_(False)
    network.layer1[1].bn2.weight.requires_grad_(True)
    return network


def normalise_a_weight(network):
    controller = network.time_stepping.layer1
    torch.nn.utils.parametrizations.weight_norm(controller.project_out)
    return network


@pytest.mark.parametrize("controller", WRITTEN_IN_ARRAYS)
@pytest.mark.parametrize(
    "change",
    [tie_convolutions, tie_norms, freeze_all_but_a_vector, normalise_a_weight],
)
def test_second_derivatives_of_unusual_networks(images, taken, monkeypatch, controller, change):
    torch.manual_seed(0)
    network = timestepper.attach(HomeMade().double(), controller).eval()
    network = change(network)
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def derivatives():
        loss = network(images.double()).square().mean()
        first = torch.autograd.grad(loss, wanted, create_graph=True)
        second = torch.autograd.grad(sum((grad**2).sum() for grad in first), wanted)
        return {n: g.detach() for n, g in enumerate([*first, *second])}

    found = derivatives()
    assert taken == [True]
    monkeypatch.setattr(stages, "array_products", in_torch)
    assert_same(found, derivatives())


def test_second_derivatives_for_other_parameters(home_made, images, taken, monkeypatch):
    network = timestepper.attach(home_made.double()).eval()
    torch.manual_seed(0)
    others = {
        name: (parameter + 0.01 * torch.randn_like(parameter)).detach().requires_grad_()
        for name, parameter in network.named_parameters()
    }

    def derivatives():
        output = torch.func.functional_call(network, others, (images.double(),))
        first = torch.autograd.grad(output.square().mean(), [*others.values()], create_graph=True)
        return dict(zip(others, first, strict=True))

    found = derivatives()
    assert taken == [True]
    monkeypatch.setattr(stages, "array_products", in_torch)
    assert_same(found, derivatives())


class Negated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, grad):
        return torch._neg_view(-grad)


def test_gradients_that_are_negated_when_read(home_made):
    stage = timestepper.attach(home_made).time_stepping.stages[0]
    wanted = list(stage.controller.parameters())
    found = torch.autograd.grad(
        sum(Negated.apply(p).sum() for p in stage.compute_products()), wanted
    )
    expected = torch.autograd.grad(sum(p.sum() for p in stage.compute_products()), wanted)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_some_parameters_frozen(home_made, images, taken):
    network = timestepper.attach(home_made.double())
    whole = results(copy.deepcopy(network), images.double())
    for parameter in (network.layer1[0].bn2.weight, network.layer1[1].conv1.weight):
        parameter.requires_grad_(False)
    network.time_stepping.requires_grad_(False)
    some = results(network, images.double())
    assert len(some) < len(whole)
    assert_same(some, {name: whole[name] for name in some})
    assert taken == [True, True]


@pytest.mark.filterwarnings("error")
def test_weights_that_are_not_finite_come_through_without_a_warning(home_made, images, taken):
    network = timestepper.attach(home_made)
    with torch.no_grad():
        network.layer1[1].conv1.weight.fill_(1e30)
        network.time_stepping["layer1"].project_in.weight.fill_(1e30)
    output = network(images)
    output.sum().backward()
    assert not output.isfinite().all()
    assert taken == [True]


@pytest.fixture
def load_loops_again():
    yield array_products_module._loops.cache_clear
    array_products_module._loops.cache_clear()


@pytest.mark.parametrize("how", ["not installed", "interpreted"])
def test_where_numba_does_not_run(home_made, images, taken, monkeypatch, load_loops_again, how):
    network = timestepper.attach(home_made.double())
    expected = results(network, images.double())
    if how == "interpreted":
        monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    else:
        monkeypatch.delattr(stepping, "product_loops")
        monkeypatch.setitem(sys.modules, "timestepper.stepping.product_loops", None)
    load_loops_again()
    assert_same(results(network, images.double()), expected)
    assert taken == [True, False]


def test_hooks_on_layers_of_controllers_are_run(home_made, images, taken):
    network = timestepper.attach(home_made, "lstm+")
    layer = network.time_stepping.layer1.project_out
    layer.register_forward_hook(lambda module, inputs, output: output * 0)
    found = timestepper.step_sizes(network)
    network(images)
    assert taken == [False]
    assert all((one == 0.5).all() for one in found.values())


class Blind(LSTMController):
    reads_weights = False

    def forward(self, averaged):
        return self.project_out.bias.expand(self.depth, -1).sigmoid()

    forward_arrays = LSTMController.forward_arrays


def test_controllers_that_read_no_weights_go_the_general_way(home_made, images, taken):
    timestepper.attach(home_made, Blind)(images)
    assert taken == [False]


@pytest.mark.parametrize("value", [0.2, 0.1, 1e-3])
@pytest.mark.parametrize("features", [24, 2304, 9216])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_weights_are_standardised_to_zeros(value, features, dtype):
    averaged = torch.full((2, features), value, dtype=dtype)
    averaged[1] += 1e-3 * torch.randn(features, dtype=dtype)
    normed, inverse = standardised_arrays(averaged.numpy())
    assert (normed[0] == 0).all()
    assert inverse[0] == 0
    expected = standardised(averaged)
    assert (expected[0] == 0).all()
    torch.testing.assert_close(torch.from_numpy(normed), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(value):
    averaged = torch.randn(2, 24)
    averaged[1, 3] = value
    for normed in (
        standardised(averaged),
        torch.from_numpy(standardised_arrays(averaged.numpy())[0]),
    ):
        assert normed[0].isfinite().all()
        assert normed[1].isnan().all()
