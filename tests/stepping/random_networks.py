"""Random residual networks that know their own residual structure.

Every residual addition and every dense concatenation can be told its step sizes, which multiply
the branch's feature map there: Eq. 13 written out, with nothing of the package in it.
"""

from __future__ import annotations

import random

import torch
from torch import nn
from torch.nn.functional import conv2d, pad

SIZE = 6


class Apply(nn.Module):
    """A function of a tensor and of the modules and parameters that it is given."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


class Stepped(nn.Module):
    """A branch: ``steps``, if set, has one step size for each channel of its result."""

    steps = None

    def scale(self, features):
        return features if self.steps is None else features * self.steps[:, None, None]


class Residual(Stepped):
    def __init__(self, body, add, shortcut, activation):
        super().__init__()
        self.body, self.add = body, add
        self.shortcut, self.activation = shortcut, activation

    def forward(self, x):
        features = self.scale(self.body(x))
        return self.activation(self.add(self.shortcut(x), features))


class DenseLayer(Stepped):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, state):
        return self.scale(self.body(state))


class DenseBlock(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


def add_in_place(shortcut, features):
    state = shortcut.clone()
    state += features
    return state


def add_to_first(shortcut, features):
    """Only the first channels have a branch."""
    width = features.shape[1]
    return torch.cat([shortcut[:, :width] + features, shortcut[:, width:]], 1)


class Maker:
    """Makes a network from a seed, or of what somebody else chooses, and weights from the seed."""

    def __init__(self, seed, source=None):
        self.random = source or random.Random(seed)
        torch.manual_seed(seed)
        self.nested = 0

    def choose(self, *options):
        """Call one of the options."""
        return self.random.choice(options)()

    def scales(self, *shape):
        return nn.Parameter(torch.rand(*shape) + 0.5)

    def affine(self, norm):
        """Give a norm a weight and a bias that matter."""
        with torch.no_grad():
            norm.weight.uniform_(0.5, 1.5)
            if norm.bias is not None:
                norm.bias.uniform_(-0.5, 0.5)
        return norm

    def groups(self, *widths):
        return self.random.choice([n for n in (1, 2, 3) if not any(w % n for w in widths)])

    def conv(self, inputs, outputs):
        size = self.random.choice([1, 3])
        bias = self.random.random() < 0.5
        groups = self.groups(inputs, outputs)
        return nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=bias)

    def layer(self, inputs, outputs):
        """Make a layer that changes the width."""
        plain = nn.Conv2d(inputs, outputs, 3, padding=1, bias=self.random.random() < 0.5)
        return self.choose(
            *[lambda: self.conv(inputs, outputs)] * 3,
            lambda: nn.ConvTranspose2d(
                inputs, outputs, 3, padding=1, groups=self.groups(inputs, outputs)
            ),
            lambda: Apply(
                lambda self, x: self.linear(x.movedim(1, 3)).movedim(3, 1),
                linear=nn.Linear(inputs, outputs),
            ),
            lambda: Apply(
                lambda self, x: conv2d(x, self.conv.weight, self.conv.bias, padding=1), conv=plain
            ),
            lambda: nn.utils.parametrizations.weight_norm(plain),
            lambda: Apply(
                lambda self, x: conv2d(
                    x, self.gain * self.conv.weight.tanh(), self.conv.bias, padding=1
                ),
                conv=plain,
                gain=self.scales(outputs, 1, 1, 1),
            ),
        )

    def norm(self, width):
        return self.choose(
            *[lambda: self.affine(nn.BatchNorm2d(width))] * 3,
            lambda: self.affine(nn.GroupNorm(self.groups(width), width)),
            lambda: Apply(
                lambda self, x: self.norm(x.movedim(1, 3)).movedim(3, 1),
                norm=self.affine(nn.LayerNorm(width)),
            ),
        )

    def activation(self):
        return self.choose(nn.ReLU, nn.ReLU, nn.SiLU, lambda: nn.LeakyReLU(0.1))

    def gate(self, width):
        return self.choose(
            lambda: Apply(
                lambda self, x: (
                    x * self.write(self.read(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
                ),
                read=nn.Conv2d(width, width, 1, groups=self.groups(width)),
                write=nn.Conv2d(width, width, 1),
            ),
            lambda: Apply(
                lambda self, x: self.read(x).sigmoid() * x, read=nn.Conv2d(width, 1, 3, padding=1)
            ),
            lambda: Apply(lambda self, x: x * self.a(x), a=self.conv(width, width)),
            lambda: Apply(lambda self, x: x * x.sigmoid()),
        )

    def mixture(self, width):
        """Make something whose result comes from several places."""
        part = max(1, width // 2)
        return self.choose(
            lambda: Apply(
                lambda self, x: self.a(x) + self.b(x.clone()),
                a=nn.Sequential(self.layer(width, width), self.layer(width, width)),
                b=nn.Sequential(self.layer(width, width), self.layer(width, width)),
            ),
            lambda: Apply(
                lambda self, x: torch.cat([self.a(x[:, :, :3]), self.b(x[:, :, 3:])], 2),
                a=self.conv(width, width),
                b=self.conv(width, width),
            ),
            lambda: Apply(
                lambda self, x: torch.cat([self.a(x[:, :part]), x[:, part:]], 1),
                a=self.layer(part, part),
            ),
            lambda: Apply(
                lambda self, x: self.a(x).unflatten(1, (2, -1)).mean(1),
                a=self.conv(width, 2 * width),
            ),
            lambda: Apply(lambda self, x: x.mean(1, keepdim=True).expand_as(x)),
        )

    def same_width(self, width):
        return self.choose(
            self.activation,
            self.activation,
            lambda: self.norm(width),
            lambda: self.norm(width),
            lambda: nn.Sequential(self.norm(width), nn.ReLU(inplace=True)),
            lambda: self.gate(width),
            lambda: self.mixture(width),
            lambda: self.residual(width) if self.nested < 2 else nn.Identity(),
            lambda: Apply(lambda self, x: x * self.scale, scale=self.scales(width, 1, 1)),
            lambda: Apply(lambda self, x: x * self.scale, scale=self.scales(1)),
            lambda: Apply(lambda self, x: x + self.shift, shift=self.scales(width, 1, 1)),
            lambda: nn.AvgPool2d(3, 1, 1),
            lambda: nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear")),
            lambda: nn.Dropout(0.3),
            lambda: Apply(lambda self, x: -x / 2),
            lambda: Apply(lambda self, x: pad(x[:, :, 1:-1], (0, 0, 1, 1))),
            lambda: Apply(lambda self, x: x.roll((1, 2), (2, 3))),
        )

    def body(self, inputs, outputs):
        """Make a branch: layers between which anything may be, and something behind."""
        self.nested += 1
        width = self.random.choice([inputs, 4, 6])
        parts = [self.layer(inputs, width)]
        parts += [self.same_width(width) for _ in range(self.random.randrange(3))]
        parts.append(self.layer(width, outputs))
        parts += [self.same_width(outputs) for _ in range(self.random.randrange(3))]
        self.nested -= 1
        return nn.Sequential(*parts)

    def residual(self, width):
        add, inputs = self.random.choice(
            [(torch.add, width)] * 3 + [(add_in_place, width), (add_to_first, max(1, width // 2))]
        )
        shortcut = nn.Identity()
        if add is torch.add and self.random.random() < 0.15:
            shortcut = nn.Sequential(self.conv(width, width), self.affine(nn.BatchNorm2d(width)))
        activation = self.choose(nn.Identity, nn.Identity, self.activation)
        return Residual(self.body(width, inputs), add, shortcut, activation)

    def smaller(self, width):
        """Make a block at half the resolution, the first of a stage."""
        strides = self.random.choice([(2, 1), (1, 2)])
        body = [
            nn.Conv2d(width, width, 3, strides[0], 1, groups=self.groups(width), bias=False),
            self.affine(nn.BatchNorm2d(width)),
            self.activation(),
            nn.Conv2d(width, width, 3, strides[1], 1),
        ]
        shortcut = self.choose(
            lambda: nn.Conv2d(width, width, 1, 2), lambda: nn.AvgPool2d(2), lambda: nn.MaxPool2d(2)
        )
        return Residual(nn.Sequential(*body), torch.add, shortcut, nn.Identity())

    def dense(self, width):
        """Make a dense block whose readers do not all begin with batch norms."""
        growth = self.random.choice([2, 3])
        wide = [width + growth * layer for layer in range(self.random.choice([2, 3]) + 1)]
        layers = [DenseLayer(self.body(inputs, growth)) for inputs in wide[:-1]]
        return nn.Sequential(DenseBlock(layers), nn.Conv2d(wide[-1], width, 1))

    def network(self, width=6):
        block = self.random.choice
        blocks = [
            block([self.residual] * 4 + [self.dense])(width)
            for _ in range(self.random.randint(1, 3))
        ]
        if self.random.random() < 0.3:
            blocks.append(self.smaller(width))
        stem = nn.Sequential(self.conv(3, width), self.affine(nn.BatchNorm2d(width)))
        return nn.Sequential(stem, *blocks, nn.Conv2d(width, 3, 1))
