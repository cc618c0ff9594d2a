"""What runs on a GPU is what runs on the CPU."""

import copy

import pytest
import torch
from torch import nn

import timestepper
from timestepper.controllers import CONTROLLERS, lstm_steps, lstm_triton
from timestepper.networks import create
from timestepper.stepping import average_triton
from timestepper.stepping.branches import average_weights, in_turn

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICE = torch.device("cuda")


@pytest.fixture(autouse=True)
def no_tf32():
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def attached(controller, dtype):
    torch.manual_seed(0)
    return timestepper.attach(create("cifar_resnet20"), controller).to(dtype).train()


def run(network, module=None):
    """Return a network's outputs and the gradients of all parameters, on the CPU."""
    parameter = next(network.parameters())
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(8, 3, 16, 16, generator=generator, dtype=torch.float64).to(parameter)
    outputs = (network if module is None else module)(images)
    nn.functional.cross_entropy(outputs, torch.arange(8, device=images.device)).backward()
    return [outputs.detach().cpu(), *(p.grad.cpu() for p in network.parameters())]


def assert_close(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("controller", [*CONTROLLERS, 0.3])
def test_outputs_and_gradients(controller):
    network = attached(controller, torch.float64)
    expected = run(copy.deepcopy(network))
    assert_close(run(network.to(DEVICE)), expected, 1e-10)


@pytest.mark.parametrize("controller", ["lstm", "lstm+"])
def test_compiled(controller):
    network = attached(controller, torch.float64).to(DEVICE)
    expected = run(copy.deepcopy(network))
    torch._dynamo.reset()
    assert_close(run(network, torch.compile(network, fullgraph=True)), expected, 1e-10)


@pytest.mark.parametrize("controller", ["lstm", "lstm+"])
def test_a_captured_step(controller):
    eager = attached(controller, torch.float64).to(DEVICE)
    captured = copy.deepcopy(eager)
    images = torch.randn(8, 3, 16, 16, dtype=torch.float64, device=DEVICE)
    labels = torch.arange(8, device=DEVICE)

    def make(network):
        optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, fused=True)

        def step():
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()

        return step

    step = make(eager)
    for _ in range(6):
        step()
    step, side = make(captured), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for _ in range(3):
        graph.replay()
    found, expected = captured.state_dict(), eager.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9, msg=name)


def test_folded_outputs_are_bit_for_bit_the_same():
    network = attached("lstm", torch.float32).to(DEVICE).eval()
    images = torch.randn(8, 3, 32, 32, device=DEVICE)
    with torch.no_grad():
        before = network(images)
        assert torch.equal(timestepper.fold(network)(images), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("depth", "hidden"), [(1, 4), (9, 16), (5, 6), (56, 4), (3, 256)])
def test_recurrence(depth, hidden, dtype):
    from_inputs = torch.randn(depth, 4 * hidden, dtype=dtype, device=DEVICE)
    of_before = torch.randn(4 * hidden, 2 * hidden, dtype=dtype, device=DEVICE)[:, hidden:] / hidden
    grad_h = torch.randn(depth, hidden, dtype=dtype, device=DEVICE)
    expected = lstm_steps.recurrence(from_inputs, of_before)
    found = lstm_triton.recurrence(from_inputs, of_before)
    expected += (lstm_steps.recurrence_backward(grad_h, of_before, *expected[1:]),)
    found += (lstm_triton.recurrence_backward(grad_h, of_before, *found[1:]),)
    assert_close(found, expected, 1e-5 if dtype == torch.float32 else 1e-12)


SHAPES = [
    (16, 16, 3, 3),
    (2048, 512, 1, 1),
    (512, 512, 3, 3),
    (5, 130),
    (3, 70, 5),
    (2, 3, 2, 3, 4),
]


def make_weights(dtype, memory_format):
    weights = [torch.randn(shape, dtype=dtype, device=DEVICE) for shape in SHAPES]
    return [w.to(memory_format=memory_format) if w.ndim == 4 else w for w in weights]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_averages(dtype, memory_format, monkeypatch):
    weights = make_weights(dtype, memory_format)
    expected = in_turn(weights)
    monkeypatch.setattr(average_triton, "in_turn", None)  # The kernel has to be used.
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    assert_close([average_weights(len(weights), weights)[0]], [expected], tolerance)


@pytest.mark.parametrize("known", [True, False])
def test_captured_averages(known, monkeypatch):
    """With a table that an earlier pass has made, and without one."""
    average_triton._tables.clear()
    weights = make_weights(torch.float64, torch.channels_last)
    if known:
        average_triton.average(weights)
        monkeypatch.setattr(average_triton, "in_turn", None)
    else:
        in_turn(weights)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = average_weights(len(weights), weights)
    average_triton._tables.clear()
    for weight in weights:
        weight.normal_()
    graph.replay()
    assert_close([found[0]], [in_turn(weights)], 1e-12)


def test_compiled_averages_are_captured(monkeypatch):
    class Averages(nn.Module):
        def __init__(self, weights):
            super().__init__()
            self.weights = nn.ParameterList(weights)

        def forward(self):
            return average_weights(len(self.weights), list(self.weights))

    module = Averages(make_weights(torch.float64, torch.contiguous_format))
    torch._dynamo.reset()
    compiled = torch.compile(module, mode="reduce-overhead", fullgraph=True)
    monkeypatch.setattr(average_triton, "in_turn", None)
    with torch.no_grad():
        for _ in range(4):  # Warms up, captures and replays.
            found = compiled()[0].clone()
            assert_close([found], [in_turn(list(module.weights))], 1e-12)
            for weight in module.weights:
                weight.normal_()
