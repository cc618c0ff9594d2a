"""Gradients along depth (Eq. 8), against autograd, finite differences and products of matrices."""

import copy
import json
import math

import pytest
import torch
from explicit import Images, make, matrix, two_layers
from torch import nn

import timestepper
from timestepper import networks
from timestepper.errors import ConfigurationError, StabilityError
from timestepper.stability.gradients import gradient_flow

DEPTH = 4


@pytest.fixture
def inputs():
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(3)).double()


@pytest.fixture
def labels():
    return torch.tensor([0, 1, 2, 2, 1, 0])


def norms_of(network, inputs, labels, step_sizes):
    """Take the steps one by one, each image by itself, and keep the states' gradients."""
    norms = []
    for image, label in zip(inputs.split(1), labels.split(1), strict=True):
        states = [network.first(image)]
        states[0].retain_grad()
        for number, step_size in enumerate(step_sizes):
            states.append(network.advance(states[-1], number, step_size))
            states[-1].retain_grad()
        logits = network.classifier(states[-1])
        (-logits.log_softmax(1)[0, label]).backward()
        norms.append(torch.stack([state.grad.norm() for state in states]))
    return torch.stack(norms).mean(0)


def close(flow, expected, tolerance=1e-10):
    found = torch.tensor(flow.norms, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)


@pytest.mark.parametrize("after", [None, nn.ReLU()])
@pytest.mark.parametrize("step_size", [None, 1.0, 0.01, 2.5])
def test_plain_network_against_autograd(after, step_size, inputs, labels):
    network = make(two_layers, DEPTH, 4, after)
    flow = gradient_flow(network, inputs, labels, step_size=step_size)
    h = 1.0 if step_size is None else step_size
    close(flow, norms_of(network, inputs, labels, [h] * DEPTH))
    assert flow.depth.times == pytest.approx([n * h for n in range(DEPTH + 1)])


@pytest.mark.parametrize("step_size", [None, 1.0, 0.01])
def test_attached_network_against_autograd(step_size, inputs, labels):
    network = make(two_layers, DEPTH, 8)
    plain = copy.deepcopy(network)
    timestepper.attach(network, "lstm", example_input=inputs)
    (controller,) = network.time_stepping.children()
    nn.init.normal_(controller.project_out.weight, std=2.0)
    steps = list(timestepper.step_sizes(network).values())
    assert steps[0].std() > 0.05
    flow = gradient_flow(network, inputs, labels, step_size=step_size)
    close(flow, norms_of(plain, inputs, labels, [step_size] * DEPTH if step_size else steps))


def test_finite_differences(inputs, labels):
    network = make(two_layers, DEPTH, 3)
    image, label = inputs[:1], labels[:1]
    flow = gradient_flow(network, image, label, step_size=0.3)
    state, steps, small = network.first(image), [0.3] * DEPTH, 1e-6

    def loss(state, number):
        return nn.functional.cross_entropy(network.finish(state, number, steps), label)

    for number in range(DEPTH + 1):
        differences = [
            (loss(state + small * unit, number) - loss(state - small * unit, number)) / (2 * small)
            for unit in torch.eye(3, dtype=torch.float64)
        ]
        assert flow.norms[number] == pytest.approx(torch.stack(differences).norm().item(), rel=1e-6)
        if number < DEPTH:
            state = network.advance(state, number, 0.3)


@pytest.mark.parametrize("h", [1.0, 0.3])
def test_linear_network_against_the_product_of_its_matrices(h, inputs, labels):
    network = make(matrix, DEPTH, 4)
    flow = gradient_flow(network, inputs, labels, step_size=h)
    with torch.no_grad():
        matrices = [torch.eye(4) + h * branch.weight for branch in network.branches]
        state = network.first(inputs)
        for one in matrices:
            state = state @ one.T
        missed = network.classifier(state).softmax(1) - nn.functional.one_hot(labels, 3)
        gradient = missed @ network.classifier.weight
        expected = [gradient.norm(dim=1).mean()]
        for one in reversed(matrices):
            gradient = gradient @ one
            expected.insert(0, gradient.norm(dim=1).mean())
    close(flow, torch.stack(expected))


def test_small_steps_make_all_gradients_of_a_stage_equal():
    torch.manual_seed(0)
    network = Images(after=nn.Identity()).double().eval()
    images, labels = torch.randn(3, 3, 8, 8).double(), torch.tensor([0, 2, 1])

    def spreads(h):
        flow = gradient_flow(network, images, labels, step_size=h)
        assert flow.depth.sizes == ((4, 64),) * 3 + ((8, 16),) * 2
        return [
            max(norms) / min(norms) - 1 for norms in (flow.norms[:3], flow.norms[3:])
        ], flow.norms

    (first, second), norms = spreads(1e-8)
    assert max(first, second) < 1e-7
    assert abs(norms[2] / norms[3] - 1) > 0.01  # Between the stages nothing is an identity.
    # Eq. 8's second term is proportional to the step size.
    assert spreads(1e-3)[0] == pytest.approx([s / 10 for s in spreads(1e-2)[0]], rel=0.1)


def test_norms_do_not_depend_on_the_number_of_images(inputs, labels):
    network = make(two_layers, DEPTH, 4)
    once = gradient_flow(network, inputs, labels)
    twice = gradient_flow(network, inputs.repeat(2, 1), labels.repeat(2))
    assert twice.norms == pytest.approx(once.norms, rel=1e-12)


def test_images_that_are_surely_right_have_a_gradient_in_float32(inputs, labels):
    network = make(two_layers, DEPTH, 4).float()
    with torch.no_grad():
        network.classifier.weight.zero_()
        network.classifier.weight[0, 0] = 1e-3
        network.classifier.bias.copy_(torch.tensor([25.0, 0.0, 0.0]))
    flow = gradient_flow(network, inputs[:1].float(), torch.tensor([0]))
    assert flow.norms[-1] == pytest.approx(1e-3 * 2 * 1.389e-11, rel=1e-2, abs=0)


def test_a_network_of_ours_stays_as_it_is_and_the_record_is_json():
    torch.manual_seed(0)
    network = timestepper.attach(networks.create("cifar_resnet20", num_classes=5)).eval()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([1, 4])
    with torch.no_grad():
        before = network(images)
    flows = [gradient_flow(network, images, labels, step_size=h) for h in (None, 1.0, 0.01)]
    assert len({flow.norms for flow in flows}) == 3
    with torch.no_grad():
        assert torch.equal(network(images), before)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not images.requires_grad
    for flow in flows:
        record = json.loads(json.dumps(flow.to_dict()))
        assert set(record) == {"names", "stages", "times", "sizes", "norms"}
        assert record["norms"] == list(flow.norms)
        assert record["stages"] == ["layer1"] * 3 + ["layer2"] * 3 + ["layer3"] * 3
        assert record["sizes"][3:5] == [[16, 1024], [32, 256]]


@pytest.mark.parametrize("step_size", [None, 0.3])
def test_tokens_against_what_they_are_embedded_as(step_size, labels):
    network = make(two_layers, DEPTH, 4)
    tokens = torch.tensor([[0], [3], [1], [2], [1], [0]])
    embedding = nn.Embedding(4, 5).double().requires_grad_(False).eval()
    embedded = nn.Sequential(embedding, nn.Flatten(), network).eval()
    expected = gradient_flow(network, embedding(tokens).flatten(1), labels, step_size=step_size)
    close(
        gradient_flow(embedded, tokens, labels, step_size=step_size),
        torch.tensor(expected.norms, dtype=torch.float64),
    )


def test_gradients_that_overflow_are_none_in_json():
    network = make(two_layers, 1, 4)
    nn.init.constant_(network.branches[0][2].weight, 1e308)
    flow = gradient_flow(network, torch.zeros(1, 5).double(), torch.tensor([0]))
    assert not math.isfinite(flow.norms[0])
    read = json.loads(json.dumps(flow.to_dict(), allow_nan=False))
    assert read["norms"] == [None, flow.norms[1]]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.tensor([0, 1]), "6 images need torch.int64 of shape"),
        (torch.zeros(6), r"labels are torch.float32"),
        (torch.tensor([0, 1, 2, 3, 0, 0]), "from 0 to 3, but the network has 3 classes"),
        (torch.tensor([0, 1, 2, -1, 0, 0]), "from -1 to 2"),
    ],
)
def test_labels_of_something_else(labels, said, inputs):
    with pytest.raises(StabilityError, match=said):
        gradient_flow(make(two_layers, 2, 4), inputs, labels)


def test_outputs_that_are_no_classes(inputs, labels):
    network = make(two_layers, 2, 4)
    network.classifier = nn.Unflatten(1, (2, 2)).eval()
    with pytest.raises(StabilityError, match=r"output has shape \(6, 2, 2\)"):
        gradient_flow(network, inputs, labels)


@pytest.mark.parametrize("step_size", [0.0, -1.0, float("nan")])
def test_impossible_step_sizes(step_size, inputs, labels):
    with pytest.raises(ConfigurationError, match="positive and finite"):
        gradient_flow(make(two_layers, 2, 4), inputs, labels, step_size=step_size)
