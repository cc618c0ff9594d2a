"""CIFAR DenseNet and CliqueNet: the papers' sizes, and CliqueNet's alternating update."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from timestepper.errors import ConfigurationError
from timestepper.networks import CifarDenseNet, CliqueNet


def millions(network):
    return round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 2)


# method.md, section 6.
@pytest.mark.parametrize(
    ("growth", "layers", "size"), [(36, 12, 0.94), (64, 15, 4.49), (80, 15, 6.94), (80, 18, 10.14)]
)
def test_cliquenets_of_the_paper(growth, layers, size):
    with torch.device("meta"):
        assert millions(CliqueNet(growth, layers)) == size


# Huang et al. 2017, table 2; T = 36 layers are 40 with the stem, two transitions, the classifier.
@pytest.mark.parametrize(
    ("depth", "growth", "bottleneck", "size"),
    [(40, 12, False, 1.02), (100, 12, True, 0.77), (250, 24, True, 15.32), (190, 40, True, 25.62)],
)
def test_densenets_of_the_paper(depth, growth, bottleneck, size):
    with torch.device("meta"):
        assert millions(CifarDenseNet(depth, growth, bottleneck=bottleneck)) == size


def explicit_clique_block(block, x):
    """The sum over incoming layers, one convolution for each pair, in eval mode."""
    growth = block.layers[0].from_input.weight.shape[0]

    def normed(value, norm, start):
        part = slice(start, start + value.shape[1])
        mean, std = norm.running_mean[part], (norm.running_var[part] + norm.eps).sqrt()
        shaped = [t.view(1, -1, 1, 1) for t in (mean, std, norm.weight[part], norm.bias[part])]
        return ((value - shaped[0]) / shaped[1] * shaped[2] + shaped[3]).relu()

    def weight(source, target):
        place = (source if source < target else source - 1) * growth
        return block.layers[target].from_layers.weight[:, place : place + growth]

    newest = {}
    for i, layer in enumerate(block.layers):
        terms = [conv2d(normed(x, layer.norm1, 0), layer.from_input.weight, padding=1)]
        for j in range(i):
            read = normed(newest[j], layer.norm1, x.shape[1] + j * growth)
            terms.append(conv2d(read, weight(j, i), padding=1))
        newest[i] = sum(terms)
    for i, layer in enumerate(block.layers):
        terms = []
        for j in newest:
            if j != i:
                place = (j if j < i else j - 1) * growth
                terms.append(conv2d(normed(newest[j], layer.norm2, place), weight(j, i), padding=1))
        newest[i] = sum(terms)
    return torch.cat([newest[i] for i in range(len(block.layers))], 1)


def test_clique_blocks_update_each_layer_from_the_newest_others():
    torch.manual_seed(0)
    network = CliqueNet(5, 12).double().eval()
    block = network.blocks[0]
    with torch.no_grad():
        for norm in block.modules():
            if isinstance(norm, nn.BatchNorm2d):
                for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                    tensor.uniform_(0.5, 1.5)
        x = torch.randn(2, 64, 6, 6).double()
        torch.testing.assert_close(block(x), explicit_clique_block(block, x), rtol=1e-10, atol=0)


def test_cliquenet_classifies_all_blocks_features():
    network = CliqueNet(6, 6, num_classes=7, in_channels=1).eval()
    assert network(torch.randn(2, 1, 16, 16)).shape == (2, 7)
    assert network.fc.in_features == (64 + 12) + (12 + 12) + (12 + 12)


def test_dense_layers_append_their_features():
    torch.manual_seed(0)
    network = CifarDenseNet(13, 6, num_classes=7, in_channels=1).eval()
    x = torch.randn(2, 16, 8, 8)
    layer = network.block1[0]
    out = layer(x)
    assert torch.equal(out[:, :16], x)
    assert torch.equal(out[:, 16:], layer.conv1(layer.norm1(x).relu()))
    assert network(torch.randn(2, 1, 8, 8)).shape == (2, 7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CifarDenseNet(39, 12), r"depth 39 is not 3n \+ 4 with n >= 1; the nearest is 37"),
        (lambda: CifarDenseNet(97, 12, bottleneck=True), r"97 is not 6n \+ 4 .* nearest is 94"),
        (lambda: CifarDenseNet(5, 12), "the nearest is 7"),
        (lambda: CifarDenseNet(40, 0), "growth is 0; it must be at least 1"),
        (lambda: CliqueNet(36, 13), "T is 13; it must be a multiple of 3, at least 6"),
        (lambda: CliqueNet(36, 3), "T is 3; it must be a multiple of 3, at least 6"),
        (lambda: CliqueNet(0, 12), "growth is 0"),
    ],
)
def test_impossible_sizes_are_refused(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()
