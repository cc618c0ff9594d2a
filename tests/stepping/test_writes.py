"""Writes into slices and other views: what they change is followed, or the branch is refused."""

import pytest
import torch
from spelled import WIDTH, Parts, make, require_eq_13
from torch.nn import functional

import timestepper
from timestepper.errors import FoldError


def a_shortcut_written_into_zeros(net, i, x, h):
    features = net.c[i](net.a[i](x).relu())
    shortcut = x.new_zeros(features.shape)
    shortcut[:, 1:3] = x[:, :2]
    return shortcut + (features if h is None else h * features)


def a_border_written_around_features(net, i, x, h):
    inner = net.a[i](x).relu()
    padded = inner.new_zeros(len(x), WIDTH, 8, 8)
    padded[..., 1:-1, 1:-1].copy_(inner)
    features = functional.conv2d(padded, net.c[i].weight, net.c[i].bias)
    return x + (features if h is None else h * features)


def ends_in_a_border(net, i, x, h):
    features = torch.zeros_like(x)
    features[..., 1:-1, 1:-1] = net.a[i](x[..., 1:-1, 1:-1])
    return x + (features if h is None else h * features)


def circular(net, i, x, h):
    features = net.a[i](functional.pad(net.b[i](x), (1, 1, 1, 1), "circular"))[..., 1:-1, 1:-1]
    return x + (features if h is None else h * features)


def forwards_in_place(net, i, x, h):
    inner = net.a[i](x)
    inner[:, :2] = net.b[i](inner)[:, 2:]
    inner.flatten(2).mul_(2)
    features = net.c[i](inner)
    return x + (features if h is None else h * features)


def a_half_written_beside_the_other(net, i, x, h):
    first, second = net.a[i](x).chunk(2, 1)
    first.relu_()
    features = torch.cat([second, first], 1)
    return x + (features if h is None else torch.cat([h[2:], h[:2]]) * features)


FOLLOWED = [
    a_shortcut_written_into_zeros,
    a_border_written_around_features,
    ends_in_a_border,
    circular,
    forwards_in_place,
    a_half_written_beside_the_other,
]


@pytest.mark.parametrize("function", FOLLOWED)
def test_equals_eq_13_written_out_and_folds(function):
    require_eq_13(function)


def add_to_a_view(features, x):
    features.flatten(2).add_(1)
    return features


def add_to_a_slice(features, x):
    features[:, :2].add_(x[:, :2])
    return features


def write_into_a_slice(features, x):
    features[:, 2:] = x[:, :2]
    return features


def put_beside_a_constant(features, x):
    whole = torch.ones_like(features)
    whole[:, 2:] = features[:, :2]
    return whole


@pytest.mark.parametrize(
    "write", [add_to_a_view, add_to_a_slice, write_into_a_slice, put_beside_a_constant]
)
def test_writes_that_step_sizes_do_not_pass_are_refused(write):
    network, images = make(lambda net, i, x, h: x + write(net.a[i](x), x))
    with pytest.raises(FoldError, match=r"(ends in|by) a write into a slice"):
        timestepper.find_branches(network, images)


def test_a_result_that_is_written_into_another_is_used_there():
    def keep_two(net, i, x, h):
        features = net.a[i](x)
        kept = torch.ones_like(x)
        kept[:, :2] = features[:, :2]
        return (x + features) * kept.tanh()

    with pytest.raises(FoldError, match=r"used elsewhere too \(by a write into a slice"):
        timestepper.find_branches(*make(keep_two))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_input_written_into_a_batch(device):
    class Batching(Parts):
        def forward(self, images):
            # As a detector's transform does.
            batch = images[0].new_full((len(images), 3, 8, 8), 0.5)
            for place, image in zip(batch, images, strict=True):
                place[:, :6, :6].copy_(image)
            return super().forward(batch)

    network, images = (
        Batching(lambda net, i, x, h: x + net.a[i](x)).to(device),
        list(torch.randn(2, 3, 6, 6, device=device)),
    )
    assert len(timestepper.find_branches(network, (images,))) == 2
