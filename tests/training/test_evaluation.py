import math
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from timestepper import data
from timestepper.report.statistics import difference
from timestepper.training.evaluation import Meter, evaluate, evaluation_batch


@pytest.fixture
def fabric():
    return Fabric(accelerator="cpu", devices=1)


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(n, 5, generator=generator), torch.randint(0, 5, (n,), generator=generator))
        for n in (64, 64, 7)
    ]


def update(meter, outputs, labels):
    losses = nn.functional.cross_entropy(outputs, labels, reduction="none")
    meter.update(losses, outputs, labels)


def test_meter_against_the_formulas(fabric, batches):
    meter = Meter(fabric)
    for outputs, labels in batches:
        update(meter, outputs, labels)
    outputs = torch.cat([outputs for outputs, _ in batches]).double()
    labels = torch.cat([labels for _, labels in batches])
    likelihood = outputs.exp()[torch.arange(135), labels] / outputs.exp().sum(1)
    right = sum(
        row.index(max(row)) == label
        for row, label in zip(outputs.tolist(), labels.tolist(), strict=True)
    )
    scores = meter.compute()
    assert scores.loss == pytest.approx(-likelihood.log().mean().item(), rel=1e-6)
    assert scores.accuracy == right / 135


def test_meters_keep_their_tensors(fabric, batches):
    """Those of the device, to which CUDA graphs add; checkpoints are on the CPU."""
    meter, other = Meter(fabric), Meter(fabric)
    tensors = [metric.mean_value for metric in meter._metrics.values()]
    update(other, *batches[0])
    meter.load_state_dict(other.state_dict())
    for one in (meter, other):
        update(one, *batches[1])
    assert meter.compute() == other.compute()
    meter.clear()
    update(meter, *batches[1])
    other.clear()
    update(other, *batches[1])
    assert meter.compute() == other.compute()
    kept = [metric.mean_value for metric in meter._metrics.values()]
    assert all(one is before for one, before in zip(kept, tensors, strict=True))


def test_equal_differences_between_networks_are_equal(fabric):
    """To the last digits of float64, or a test over seeds would find them significant."""

    def accuracy(right):
        meter = Meter(fabric)
        labels = torch.cat([torch.ones(right), torch.zeros(355 - right)]).long()
        update(meter, torch.tensor([[0.0, 1.0]]).expand(355, -1), labels)
        return 100 * meter.compute().accuracy

    plain, stepped = ([accuracy(n - less) for n in (352, 349, 345)] for less in (0, 1))
    assert math.isnan(difference(plain, stepped).p)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_meter_reports_a_loss_that_is_not_finite(value, fabric, batches):
    meter = Meter(fabric)
    for outputs, labels in batches:
        update(meter, outputs, labels)
    meter.update(torch.tensor([value]), torch.randn(1, 5), torch.tensor([0]))
    loss = meter.compute().loss
    assert math.isnan(loss) if math.isnan(value) else loss == value


def test_outputs_that_hold_nan_are_wrong(fabric):
    meter = Meter(fabric)
    outputs = torch.eye(3)
    outputs[0], outputs[1, 1], outputs[2, 0] = math.nan, math.inf, -math.inf
    update(meter, outputs, torch.arange(3))
    assert meter.compute().accuracy == 2 / 3


def test_meter_goes_on_from_its_state(fabric, batches):
    whole, first, second = (Meter(fabric) for _ in range(3))
    for batch in batches:
        update(whole, *batch)
    update(first, *batches[0])
    second.load_state_dict(first.state_dict())
    update(first, *batches[2])  # what was saved must not change afterwards
    for batch in batches[1:]:
        update(second, *batch)
    assert second.compute() == whole.compute()


def test_evaluate_sees_every_test_image_once_in_eval_mode(fabric):
    digits = data.load("digits")
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    statistics = network[1].running_mean.clone()
    images, labels = next(iter(digits.batches("test", len(digits.test), device=fabric.device)))
    outputs = network.eval()(images)
    network.train()
    scores = evaluate(network, digits, fabric, batch_size=100)
    expected = nn.functional.cross_entropy(outputs, labels).item()
    assert scores.loss == pytest.approx(expected, rel=1e-5)
    assert scores.accuracy == pytest.approx((outputs.argmax(1) == labels).double().mean().item())
    assert network.training
    assert torch.equal(network[1].running_mean, statistics)


def test_evaluate_leaves_each_module_in_its_mode(fabric):
    """Frozen norms stay in eval mode in a network that trains, also where a signal ends it."""
    digits = data.load("digits")
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    network[1].eval()
    seen = []

    def stop():
        seen.extend(module.training for module in network.modules())
        raise KeyboardInterrupt

    evaluate(network, digits, fabric, batch_size=355)
    assert [module.training for module in network.modules()] == [True, True, False, True]
    with pytest.raises(KeyboardInterrupt):
        evaluate(network, digits, fabric, batch_size=355, after_batch=stop)
    assert seen == [False] * 4
    assert [module.training for module in network.modules()] == [True, True, False, True]


@pytest.mark.parametrize(
    ("device", "side", "batch_size", "images"),
    [
        ("cpu", 32, 64, 250),
        ("cpu", 64, 2, 250),
        ("cpu", 32, 512, 250),
        ("cpu", 224, 64, 64),
        ("cpu", 256, 2, 15),
        ("cpu", 4096, 1, 1),
        ("cuda", 32, 64, 1365),
        ("cuda", 224, 256, 250),
        ("cuda", 224, 2, 27),
    ],
)
def test_as_many_images_at_a_time_as_fit_into_memory(device, side, batch_size, images):
    """A GPU gets more small ones; of large ones not many more than the training itself takes."""
    of_a_kind = SimpleNamespace(channels=3, image_size=(side, side))
    assert evaluation_batch(of_a_kind, torch.device(device), batch_size) == images
