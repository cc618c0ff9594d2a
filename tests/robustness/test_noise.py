"""Gaussian noise: the same for every network, and scores as the formulas give them."""

import math

import pytest
import torch
from torch import nn

from timestepper.errors import ConfigurationError
from timestepper.robustness import noise_curve
from timestepper.robustness.images import chosen_numbers, some_test_images
from timestepper.training.evaluation import evaluate

DEVIATIONS = (0.0, 0.5, 2.0)
CPU = torch.device("cpu")


def small_network(digits):
    """A network with whatever tells eval from training mode, that knows the digits a little."""
    torch.manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(), nn.Linear(64, 10))
    images, labels = next(iter(digits.batches("train", 1442, device=CPU)))
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return network


class Recorder(nn.Module):
    """Keeps what it is shown, and calls everything class 0."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x.clone())
        return torch.eye(10)[torch.zeros(len(x), dtype=torch.int64)]


def chosen(digits, limit):
    """The images that are measured, and their labels."""
    return next(iter(some_test_images(digits, limit).batches("test", 10**6, device=CPU)))


def noise_seen(digits, fabric, draws=2, limit=30, **options):
    """The noise of each draw, ``(draws, images, ...)``, as a network sees it."""
    network = Recorder()
    noise_curve(network, digits, fabric, deviations=[1.0], draws=draws, limit=limit, **options)
    clean, _ = chosen(digits, limit)
    return torch.stack([torch.cat(network.seen[draw::draws]) for draw in range(draws)]) - clean


def test_without_noise_it_is_evaluate_to_the_last_bit(digits, fabric):
    network = small_network(digits)
    curve = noise_curve(network, digits, fabric, deviations=DEVIATIONS, draws=2)
    scores = evaluate(network, digits, fabric, batch_size=250)
    assert curve.deviations == DEVIATIONS
    assert curve.accuracy.dtype == curve.loss.dtype == torch.float64
    assert curve.accuracy.shape == curve.loss.shape == (2, 3)
    assert curve.accuracy[:, 0].tolist() == [scores.accuracy] * 2
    assert curve.loss[:, 0].tolist() == [scores.loss] * 2
    assert (curve.loss.diff(dim=1) > 0).all()
    assert curve.loss[0, 1] != curve.loss[1, 1]


def test_against_the_formulas(digits, fabric):
    """A linear network, whose loss under the noise that it saw is computed by hand."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    curve = noise_curve(network, digits, fabric, deviations=[0.7], draws=1, seed=5, limit=40)
    noise = noise_seen(digits, fabric, draws=1, seed=5, limit=40)[0].double()
    clean, labels = chosen(digits, 40)
    weight, bias = network[1].weight.double(), network[1].bias.double()
    outputs = (clean.double() + 0.7 * noise).flatten(1) @ weight.T + bias
    likelihood = outputs.softmax(1)[range(40), labels]
    assert curve.loss.item() == pytest.approx(-likelihood.log().mean().item(), rel=1e-5)
    assert curve.accuracy.item() == pytest.approx(
        (outputs.argmax(1) == labels).double().mean().item(), rel=1e-6
    )


def test_noise_is_standard_normal_and_new_for_each_image_draw_and_seed(digits, fabric):
    noise = noise_seen(digits, fabric, draws=2, limit=300)
    count = noise.numel()
    assert noise.mean().abs() < 5 / math.sqrt(count)
    assert noise.std().item() == pytest.approx(1, abs=5 / math.sqrt(2 * count))
    assert noise.pow(4).mean().item() == pytest.approx(3, abs=5 * math.sqrt(96 / count))
    every = noise.flatten(0, 1).flatten(1)
    correlations = torch.corrcoef(torch.cat([every[:40], every[300:340]])).fill_diagonal_(0)
    assert correlations.abs().max() < 0.8
    other = noise_seen(digits, fabric, draws=2, limit=300, seed=1)
    assert (other - noise).abs().min(dim=-1).values.max() > 0.1


def test_noise_depends_on_nothing_but_seed_draw_and_image(digits, fabric):
    state = torch.get_rng_state()
    whole = noise_seen(digits, fabric, draws=3, limit=None)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    for options in ({"batch_size": 7}, {"limit": 11}, {"draws": 1}):
        other = noise_seen(digits, fabric, **{"draws": 3, "limit": None} | options)
        expected = whole[: len(other), chosen_numbers(digits, options.get("limit"))]
        # It is a difference of what the network saw.
        torch.testing.assert_close(other, expected, rtol=0, atol=1e-6, msg=str(options))


def test_a_limit_takes_evenly_spaced_images(digits):
    assert chosen_numbers(digits, 5).tolist() == [0, 71, 142, 213, 284]
    assert len(digits.test) == 355
    everything = list(range(355))
    assert [chosen_numbers(digits, limit).tolist() for limit in (None, 355, 999)] == 3 * [
        everything
    ]
    images, labels = next(iter(digits.batches("test", 355, device=CPU)))
    some, theirs = chosen(digits, 5)
    assert torch.equal(some, images[::71])
    assert torch.equal(theirs, labels[::71])


def test_all_deviations_share_the_noise(digits, fabric):
    network = Recorder()
    noise_curve(network, digits, fabric, deviations=DEVIATIONS, draws=1, limit=20)
    clean, half, two = (seen.double() for seen in network.seen)
    torch.testing.assert_close((two - clean) / 2, (half - clean) / 0.5, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", [True, False])
def test_leaves_the_network_as_it_was(mode, digits, fabric):
    network = small_network(digits).train(mode)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    curve = noise_curve(network, digits, fabric, deviations=[1.0], draws=1)
    assert network.training is mode
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not curve.loss.requires_grad


def test_limit_and_progress(digits, fabric):
    seen = []
    network = Recorder()
    noise_curve(
        network,
        digits,
        fabric,
        deviations=[1.0],
        draws=1,
        limit=50,
        batch_size=20,
        progress=lambda done, of: seen.append((done, of)),
    )
    assert [len(batch) for batch in network.seen] == [20, 20, 10]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    noise_curve(network, digits, fabric, deviations=[1.0], draws=1, limit=10**6, batch_size=1000)
    assert len(network.seen[-1]) == len(digits.test)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deviations": []}, "there are no deviations; give at least one"),
        ({"deviations": [0.1, -1]}, "deviation -1 is no standard deviation; give 0 or more"),
        ({"deviations": [math.inf]}, "deviation inf is no standard deviation"),
        ({"deviations": [math.nan]}, "deviation nan is no standard deviation"),
        ({"draws": 0}, "draws is 0; it must be at least 1"),
        ({"limit": 0}, "limit is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
    ],
)
def test_bad_input(options, message, digits, fabric):
    with pytest.raises(ConfigurationError, match=message):
        noise_curve(Recorder(), digits, fabric, **{"deviations": [1.0], "draws": 1} | options)


def test_frozen_parts_stay_in_eval_mode(digits, fabric):
    network = small_network(digits)
    network[1].eval()
    noise_curve(network, digits, fabric, deviations=[0.0], draws=1, limit=5)
    assert [part.training for part in network] == [True, False, True, True]
