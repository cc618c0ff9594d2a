"""Attaching adds a child to the network: its forward must not notice."""

import random

import numpy as np
import pytest
import torch
from home_made import Block, HomeMade
from reference import Random
from torch import nn

import timestepper
from timestepper.errors import NoBranchError

WIDTH = 4


class AllButTheLast(nn.Sequential):
    def forward(self, x):
        for place, child in enumerate(self):
            x = child(x)
            if place < len(self) - 1:
                x = torch.tanh(x)
        return x


class LastIsHead(nn.Sequential):
    def forward(self, x):
        for child in list(self)[:-1]:
            x = child(x)
        return self[-1](x.mean((2, 3)))


class Mean(nn.Sequential):
    def forward(self, x):
        return super().forward(x) / len(self)


class ListOfFeatures(nn.ModuleList):
    def forward(self, x):
        means = []
        for child in self:
            x = child(x)
            means.append(x.mean())
        return torch.stack(means)


class FeaturesByName(nn.ModuleDict):
    def forward(self, x):
        features = {}
        for name, child in self.items():
            features[name] = x = child(x)
        return features


class ByOrder(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        for place, layer in enumerate(layers):
            self.add_module(f"layer{place}", layer)

    def forward(self, x):
        *body, head = self.children()
        for child in body:
            x = child(x)
        return head(x.mean((2, 3)))


def body():
    torch.manual_seed(0)
    return [nn.Conv2d(3, WIDTH, 3, padding=1), Block(WIDTH), Block(WIDTH)]


COUNTING = {
    "last": lambda: AllButTheLast(*body()),
    "head": lambda: LastIsHead(*body(), nn.Linear(WIDTH, 5)),
    "mean": lambda: Mean(*body()),
    "list": lambda: ListOfFeatures(body()),
    "dict": lambda: FeaturesByName(dict(zip("abc", body(), strict=True))),
    "children": lambda: ByOrder(*body(), nn.Linear(WIDTH, 5)),
}


@pytest.mark.parametrize("kind", COUNTING)
def test_networks_that_notice_are_refused(kind):
    network, images = COUNTING[kind]().eval(), torch.randn(2, 3, 8, 8)
    before = network(images)
    with pytest.raises(NoBranchError, match=r"counts or indexes its children.*make the network a"):
        timestepper.attach(network, 1.0, example_input=images)
    assert not hasattr(network, "time_stepping")
    wrapped = timestepper.attach(nn.Sequential(network), 1.0, example_input=images)
    after = wrapped(images)
    torch.testing.assert_close(after, before)
    assert len(timestepper.step_sizes(wrapped)) == 2


def python_coin():
    return random.random() < 0.5


def numpy_coin():
    return np.random.rand() < 0.5


def torch_coin():
    return torch.rand(()).item() < 0.5


@pytest.mark.parametrize("coin", [python_coin, numpy_coin, torch_coin])
def test_networks_that_draw_numbers_are_none_of_them(coin):
    class Dropping(HomeMade):
        def forward(self, x):
            x = self.conv(x)
            for _ in range(9):
                x = x.relu() if coin() else x.sigmoid()
            return self.fc(self.layer1(x).mean((2, 3)))

    for seed in range(5):
        random.seed(seed)
        np.random.seed(seed)
        state = np.random.get_state()[1].copy(), random.getstate()
        timestepper.attach(Dropping(), example_input=torch.randn(1, 3, 8, 8))
        assert (np.random.get_state()[1] == state[0]).all()
        assert random.getstate() == state[1]


def test_networks_whose_operations_depend_on_values_are_none_of_them():
    class Settling(HomeMade):
        """Repeats until features are small, which takes as long as step sizes make them."""

        def forward(self, x):
            x = self.layer1(self.conv(x))
            while x.abs().max() > 0.01:
                x = x * 0.9
            return self.fc(x.mean((2, 3)))

    class Statistics(Random):
        """A controller that counts its passes in training mode."""

        def __init__(self, *sizes):
            super().__init__(*sizes)
            self.register_buffer("passes", torch.zeros(()))

        def forward(self, averaged):
            self.passes += self.training
            return super().forward(averaged)

    images = torch.randn(1, 3, 8, 8)
    network = timestepper.attach(Settling().train(), Statistics, example_input=images)
    assert list(dict(network.named_children())) == ["conv", "layer1", "fc", "time_stepping"]
    assert "time_stepping" not in network.__dict__
    assert network.time_stepping.training
    (controller,) = network.time_stepping.values()
    assert controller.training
    assert controller.passes == 0
