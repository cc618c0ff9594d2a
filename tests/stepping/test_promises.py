"""What attaching promises, one test a line (docs: README)."""

import contextlib
import copy
import io
import pickle

import pytest
import torch
from reference import ExplicitNetwork
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import timestepper
from timestepper.errors import AttachedError, StateError
from timestepper.stepping.hooks import HOOKS


@pytest.fixture(params=["lstm", "lstm+"])
def controller(request):
    return request.param


def hooks_left(network):
    return [
        hook
        for module in network.modules()
        for hooks in (module._forward_pre_hooks, module._forward_hooks)
        for hook in hooks.values()
        if isinstance(hook, HOOKS)
    ]


def gradients(network):
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


def assert_close(ours, reference, tolerance=1e-10):
    scale = reference.abs().max().clamp_min(1e-12)
    assert ((ours - reference).abs().max() / scale).item() < tolerance


def assert_same_gradients(network, expected):
    found = gradients(network)
    assert found.keys() == expected.keys() == dict(network.named_parameters()).keys()
    for name, gradient in found.items():
        assert_close(gradient, expected[name], 1e-9)


@pytest.mark.parametrize("training", [True, False])
def test_same_function_and_gradients_as_explicit_product(make_network, images, training):
    plain = make_network().double().train(training)
    network = timestepper.attach(copy.deepcopy(plain))
    images = images.double()
    controllers = {
        stage: {n: p.detach().clone().requires_grad_() for n, p in module.named_parameters()}
        for stage, module in network.time_stepping.items()
    }
    reference = ExplicitNetwork(plain, controllers)
    ours, theirs = network(images), reference(images)
    assert_close(ours, theirs)
    weights = torch.randn_like(theirs)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    ours = gradients(network)
    for name, parameter in plain.named_parameters():
        assert_close(ours.pop(name), parameter.grad)
    for stage, parameters in controllers.items():
        for name, parameter in parameters.items():
            assert_close(ours.pop(f"time_stepping.{stage}.{name}"), parameter.grad)
    assert not ours


@pytest.mark.parametrize("controller", ["lstm", "lstm+", "lstm-standardised", "2fc", "indp", 0.1])
def test_fold_is_bit_exact_and_leaves_nothing_behind(make_network, images, controller):
    plain = make_network()
    keys, kind = list(plain.state_dict()), type(plain)
    count = sum(p.numel() for p in plain.parameters())
    network = timestepper.attach(plain, controller)
    network.train()
    network(images)  # moves the running statistics
    network.eval()
    with torch.no_grad():
        before = network(images)
        timestepper.fold(network)
        assert torch.equal(network(images), before)
    assert list(network.state_dict()) == keys
    assert type(network) is kind
    assert sum(p.numel() for p in network.parameters()) == count
    assert not hooks_left(network)
    assert not hasattr(network, "time_stepping")


class Operators(TorchDispatchMode):
    """Notes what is called, and the shapes of the results."""

    def __init__(self):
        super().__init__()
        self.called = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        results = result if isinstance(result, (tuple, list)) else (result,)
        shapes = [one.shape for one in results if isinstance(one, torch.Tensor)]
        self.called.append((function, shapes))
        return result


def test_folded_network_calls_the_plain_ones_operators(make_network, images):
    traces = []
    folded = timestepper.fold(timestepper.attach(make_network())).eval()
    for network in (make_network().eval(), folded):
        with torch.no_grad(), Operators() as trace:
            network(images)
        traces.append(trace.called)
    assert len(traces[0]) > 10
    assert traces[0] == traces[1]


@pytest.mark.parametrize("training", [True, False])
def test_controllers_are_in_the_networks_mode(make_network, training):
    network = timestepper.attach(make_network().train(training))
    assert all(module.training == training for module in network.modules())


def test_state_dict_is_the_plain_one_and_more(make_network, images):
    plain = make_network().eval()
    network = timestepper.attach(make_network(seed=1)).eval()
    extra = [name for name in network.state_dict() if name not in plain.state_dict()]
    assert extra
    assert all(name.startswith("time_stepping.") for name in extra)
    timestepper.load_weights(network, plain.state_dict())
    mine = {n: t for n, t in network.state_dict().items() if n not in extra}
    again = make_network(seed=2).eval()
    again.load_state_dict(mine)
    with torch.no_grad():
        assert torch.equal(again(images), plain(images))


def test_gradient_accumulation(make_network, images):
    network = timestepper.attach(make_network().double().eval())
    images = images.double()
    network(images).sum().backward()
    whole = gradients(network)
    network.zero_grad()
    network(images[:2]).sum().backward()
    network(images[2:]).sum().backward()
    assert_same_gradients(network, whole)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(images, home_made, controller, use_reentrant):
    images = images.double()
    network = timestepper.attach(home_made.double().eval(), controller)
    network(images).square().sum().backward()
    expected = gradients(network)
    network.zero_grad()
    for block in network.layer1:
        block.forward = lambda x, run=block.forward: checkpoint(run, x, use_reentrant=use_reentrant)
    network(images).square().sum().backward()
    assert_same_gradients(network, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(make_network, images, controller, dtype):
    network = timestepper.attach(make_network(), controller).eval()
    with torch.no_grad():
        expected = network(images)
        with torch.autocast("cpu", dtype):
            steps = timestepper.step_sizes(network)
            low = network(images)
    assert {t.dtype for t in steps.values()} == {torch.float32}
    assert (low.float() - expected).norm() < 0.1 * expected.norm()


def test_channels_last(make_network, images):
    network = timestepper.attach(make_network()).eval()
    with torch.no_grad():
        expected = network(images)
        network.to(memory_format=torch.channels_last)
        result = network(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


def test_deepcopy_after_a_training_step(make_network, images):
    network = timestepper.attach(make_network()).train()
    network(images).sum().backward()
    twin = copy.deepcopy(network).eval()
    network.eval()
    with torch.no_grad():
        expected = network(images)
        assert torch.equal(twin(images), expected)
        for parameter in network.parameters():
            parameter.mul_(1.5)
        assert torch.equal(twin(images), expected)
        for parameter in twin.time_stepping.parameters():
            parameter.add_(1.0)
        assert not torch.equal(twin(images), expected)
    timestepper.fold(twin)
    assert len(hooks_left(network)) > 0


def test_pickle(make_network, images):
    network = timestepper.attach(make_network()).train()
    network(images).sum().backward()
    network.eval()
    buffer = io.BytesIO()
    pickle.dump(network, buffer)
    buffer.seek(0)
    twin = pickle.load(buffer)
    with torch.no_grad():
        assert torch.equal(twin(images), network(images))


def test_double(make_network, images):
    network = timestepper.attach(make_network()).eval()
    with torch.no_grad():
        single = network(images)
        network.double()
        double = network(images.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-3, atol=1e-3)


def test_syncbatchnorm_before_attaching(home_made):
    network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(home_made)
    timestepper.attach(network)
    assert set(timestepper.evolution_time(network)) == {"layer1"}


def test_syncbatchnorm_after_attaching_is_refused(home_made, images):
    network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(timestepper.attach(home_made))
    with pytest.raises(AttachedError, match=r"layer1\.0\.bn2 was replaced after attaching"):
        network(images)


def test_compile_gives_same_outputs_and_gradients(home_made, images, controller):
    images = images.double()
    network = timestepper.attach(home_made.double(), controller).eval()
    expected = network(images)
    expected.square().sum().backward()
    wanted = gradients(network)
    network.zero_grad()
    result = torch.compile(network, backend="aot_eager")(images)
    result.square().sum().backward()
    assert_close(result, expected)
    assert_same_gradients(network, wanted)
    with torch.no_grad():
        for parameter in network.time_stepping.parameters():
            parameter.add_(0.3)
        assert_close(torch.compile(network, backend="aot_eager")(images), network(images))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recording", [True, False])
def test_traced_networks_are_saved_and_loaded(home_made, images, controller, recording):
    network = timestepper.attach(home_made, controller).eval()
    file = io.BytesIO()
    with torch.set_grad_enabled(recording):
        torch.jit.save(torch.jit.trace(network, images), file)
    file.seek(0)
    torch.testing.assert_close(torch.jit.load(file)(images), network(images))


def test_parts_of_the_network_can_be_called(home_made, images):
    network = timestepper.attach(home_made.double())
    features = network.conv(images.double())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    network.eval()
    for _ in range(3):
        optimizer.zero_grad()
        network.layer1(features.detach()).square().mean().backward()
        optimizer.step()
    part = network.fc(network.layer1(network.conv(images.double())).mean((2, 3)))
    assert_close(part, network(images.double()))
    # Two parts with a training step between them: the second must see the new weights.
    half = network.layer1[0](features)
    with torch.no_grad():
        for parameter in network.time_stepping.parameters():
            parameter.add_(1.0)
    new = network.layer1[1](half)
    assert torch.equal(new, network.layer1[1](half))
    with torch.no_grad():
        assert torch.equal(network.layer1[1](half), new)


def test_parts_see_changes_after_a_whole_pass(home_made, images):
    network = timestepper.attach(home_made).eval()
    with torch.no_grad():
        features = network.conv(images)
        network(images)
        for parameter in network.parameters():
            parameter.mul_(1.1)
        part = network.layer1(features)
        timestepper.fold(network)
        assert torch.equal(part, network.layer1(features))


def test_parts_see_another_fixed_step_size(home_made, images):
    other = timestepper.attach(copy.deepcopy(home_made), 0.1).eval()
    network = timestepper.attach(home_made, 0.5).eval()
    with torch.no_grad():
        half = network.layer1[0](network.conv(images))
        network.time_stepping.load_state_dict(other.time_stepping.state_dict())
        assert torch.equal(network.layer1[1](half), other.layer1[1](half))


def test_weights_of_another_controller_are_refused(home_made):
    for own, others in (
        ("lstm", "lstm-standardised"),
        ("lstm-standardised", "lstm"),
        (0.5, "lstm"),
    ):
        network, other = (
            timestepper.attach(copy.deepcopy(home_made), controller) for controller in (own, others)
        )
        with pytest.raises(StateError, match=r"another network: '?time_stepping\.layer1\."):
            timestepper.load_weights(network, other.state_dict())


def test_frozen_parameters(home_made, images):
    network = timestepper.attach(home_made)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith("time_stepping."))
    network(images).sum().backward()
    assert set(gradients(network)) == {
        n for n, _ in network.named_parameters() if n.startswith("time_stepping.")
    }


def test_optimizer_built_afterwards_trains_the_controllers(home_made, images):
    network = timestepper.attach(home_made)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = timestepper.step_sizes(network)
    network(images).square().sum().backward()
    optimizer.step()
    after = timestepper.step_sizes(network)
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_step_sizes_are_computed_once_a_forward(make_network, images):
    network = timestepper.attach(make_network()).eval()
    calls = []
    for stage, controller in network.time_stepping.items():
        controller.register_forward_hook(lambda *_, stage=stage: calls.append(stage))
    with torch.no_grad():
        network(images)
    assert sorted(calls) == sorted(network.time_stepping)


def test_parameters_come_back_after_a_failed_forward(home_made, images):
    network = timestepper.attach(home_made)
    with pytest.raises(RuntimeError):
        network.layer1[0](images)  # 3 channels where 8 are needed
    with contextlib.suppress(RuntimeError):
        network.layer1[0].bn2(torch.zeros(1, 3, 2, 2))
    assert isinstance(network.layer1[0].bn2.weight, torch.nn.Parameter)


def test_preserve_changes_no_output(make_network, images):
    plain = make_network().double().eval()
    network = timestepper.attach(copy.deepcopy(plain), preserve=True)
    with torch.no_grad():
        assert_close(network(images.double()), plain(images.double()))


def test_preserve_trains_from_there(make_network, images):
    # In eval mode: batch norms of four images are so steep that no step is small enough.
    network, images = make_network().double().eval(), images.double()
    labels = torch.arange(len(images))
    timestepper.attach(network, preserve=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    with torch.no_grad():
        before = network(images)
        assert torch.equal(timestepper.fold(network)(images), before)


class WeightNormed(nn.Module):
    """What is read and what is scaled are parametrized."""

    def __init__(self):
        super().__init__()
        self.conv1 = weight_norm(nn.Conv2d(4, 4, 3, padding=1))
        self.conv2 = weight_norm(nn.Conv2d(4, 4, 3, padding=1, bias=False))

    def forward(self, x):
        return x + self.conv2(self.conv1(x).relu())


@pytest.mark.parametrize("controller", ["lstm", "indp", 0.5])
@pytest.mark.parametrize("attached_inside", [True, False])
def test_cached_parametrizations(images, controller, attached_inside):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), WeightNormed(), WeightNormed()).double()
    images = images[..., :6, :6].double()
    with parametrize.cached() if attached_inside else contextlib.nullcontext():
        timestepper.attach(network, controller, example_input=images)
    outputs, gradients = [], []
    for context in (contextlib.nullcontext, parametrize.cached):
        network.zero_grad()
        with context():
            assert network[1].conv2.weight is not None  # Somebody may look at it before the pass.
            outputs.append(network(images))
        outputs[-1].square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    assert torch.equal(*outputs)
    for usual, cached in zip(*gradients, strict=True):
        torch.testing.assert_close(cached, usual, rtol=1e-10, atol=1e-12)
    with parametrize.cached(), torch.no_grad():
        weight = network[1].conv2.weight.clone()
        network(images)
        assert torch.equal(network[1].conv2.weight, weight)
    with torch.no_grad(), parametrize.cached():
        assert torch.equal(timestepper.fold(network)(images), outputs[0])
