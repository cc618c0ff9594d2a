"""Counts against sums written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import ViT_B_16_Weights

from timestepper.speed.counting import build_shapes, count, count_stepped, multiply_accumulates


def test_a_network_by_hand():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    ).eval()
    counts = count(network)
    assert counts.parameters == 3 * 4 * 9 + 2 * 4 + (2 * 6 * 9 + 6) + (6 * 5 + 5)
    assert counts.operations == 112**2 * 4 * (3 * 9) + 110**2 * 6 * (2 * 9) + 6 * 5


def test_products_of_every_kind():
    a, b, c = torch.ones(2, 3, 4), torch.ones(2, 4, 5), torch.ones(3, 1)
    matrix, vector = torch.ones(3, 4), torch.ones(4)
    tokens = torch.ones(1, 2, 10, 8)
    expected = {
        "by element": (lambda: a * 2 + a / 3, 2 * 24),
        "by broadcasting": (lambda: a * c, 24),
        "addcmul": (lambda: torch.addcmul(a, a, c), 24),
        "addmv": (lambda: torch.addmv(torch.ones(3), matrix, vector), 12),
        "mv": (lambda: matrix @ vector, 12),
        "in place": (lambda: torch.ones(5).mul_(2).div_(2), 10),
        "attention": (lambda: functional.scaled_dot_product_attention(*[tokens] * 3), 3_200),
        # Projections of queries, keys and values, of the result, and attention itself.
        "a layer of attention": (
            lambda: nn.MultiheadAttention(16, 2).eval()(*[tokens.flatten(0, 1).view(10, 16)] * 3),
            4 * 10 * 16 * 16 + 2 * 10 * 10 * 16 + 10 * 16,  # the queries are scaled
        ),
        "a transformer's layer": (
            lambda: nn.TransformerEncoderLayer(16, 2, 32).eval()(torch.ones(10, 1, 16)),
            4 * 10 * 16 * 16 + 2 * 10 * 10 * 16 + 2 * 10 * 16 * 32,
        ),
        "baddbmm": (lambda: torch.baddbmm(torch.ones(1), a, b), 2 * 3 * 4 * 5),
        "sums and activations": (lambda: (a + a).sigmoid().mean(), 0),
    }
    for name, (run, operations) in expected.items():
        assert multiply_accumulates(run) == operations, name


def test_a_vision_transformer():
    """Against torchvision's own count, which has what ours has but for element-wise products."""
    counted = count(build_shapes("torchvision/vit_b_16")).operations / 1e9
    assert counted == pytest.approx(ViT_B_16_Weights.IMAGENET1K_V1.meta["_ops"], rel=2e-3)


BASIC = ((64, 2), (128, 2), (256, 2), (512, 2))
"""Channels and blocks of the stages of a ResNet-18."""


def test_training_with_every_controller_by_hand():
    plain = 1_814_073_344  # Convolutions and the classifier: 1.81 G in the paper.
    # γ and β of the last norm of each block, times Δt.
    folding = sum(2 * blocks * channels for channels, blocks in BASIC)
    features = sum(b * c * (56 * 64 // c) ** 2 for c, b in BASIC)
    lstm = two_layers = 0
    for channels, blocks in BASIC:
        hidden, averaged = channels // 4, 18 * channels
        two_layers += blocks * (averaged * hidden + hidden * channels)
        lstm += blocks * (averaged * hidden + hidden * channels)
        lstm += blocks * 4 * hidden**2 + (blocks - 1) * 4 * hidden**2  # h is zero at first.
        lstm += blocks * 2 * hidden + (blocks - 1) * hidden  # i⊙g, o⊙tanh c; f⊙c.
    for controller, operations in {"indp": 0, "2fc": two_layers, "lstm": lstm}.items():
        counts = count_stepped("resnet18", controller)
        assert counts.plain.operations == counts.inference.operations == plain
        assert counts.training.operations == plain + operations + folding
        assert counts.literal_training.operations == plain + operations + features
        assert counts.literal_inference.operations == plain + features
        assert counts.literal_inference.parameters == counts.plain.parameters + folding // 2
        assert counts.inference.parameters == counts.plain.parameters
        assert counts.training.parameters == counts.literal_training.parameters


def test_gates_are_counted_and_their_division():
    """A product for each gated feature; and in training Δt divides the gate's input columns."""
    plain, gated = (count_stepped(name, "indp") for name in ("resnet50_v1", "seresnet50_v1"))
    stages = ((256, 3, 56), (512, 4, 28), (1024, 6, 14), (2048, 3, 7))
    features = sum(blocks * c * side**2 for c, blocks, side in stages)
    layers = sum(blocks * 2 * c * (c // 16) for c, blocks, _ in stages)
    assert gated.plain.operations - plain.plain.operations == features + layers
    assert plain.literal_inference.operations - plain.plain.operations == features
    assert gated.literal_inference.operations - gated.plain.operations == features
    divided = sum(blocks * c * (c // 16) for c, blocks, _ in stages)
    vectors = sum(2 * blocks * c for c, blocks, _ in stages)
    assert gated.training.operations - gated.plain.operations == vectors + divided
