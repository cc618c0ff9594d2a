"""Small residual networks whose steps can also be taken one by one, in plain sight."""

import torch
from torch import nn


class Steps(nn.Module):
    """y_{d+1} = Φ(y_d + F_d(y_d)), then a linear classifier."""

    def __init__(self, make_branch, depth, width, after=None, classes=3):
        super().__init__()
        self.first = nn.Linear(5, width)
        self.branches = nn.ModuleList(make_branch(width) for _ in range(depth))
        self.after = after or nn.Identity()
        self.classifier = nn.Linear(width, classes)

    def advance(self, state, number, step_size=1.0):
        return self.after(state + step_size * self.branches[number](state))

    def finish(self, state, start, step_sizes):
        for number in range(start, len(self.branches)):
            state = self.advance(state, number, step_sizes[number])
        return self.classifier(state)

    def forward(self, x):
        state = self.first(x)
        for number in range(len(self.branches)):
            state = self.advance(state, number)
        return self.classifier(state)


class Images(nn.Module):
    """Two stages of blocks on images, the second at half the resolution and double the width."""

    def __init__(self, after=None, stages=2, depth=2):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        widths = [4 * 2**stage for stage in range(stages)]
        self.stages = nn.ModuleList(
            nn.ModuleList(Block(width, after or nn.ReLU()) for _ in range(depth))
            for width in widths
        )
        self.between = nn.ModuleList(nn.Conv2d(w, 2 * w, 2, 2) for w in widths[:-1])
        self.classifier = nn.Linear(widths[-1], 3)

    def forward(self, x):
        y = self.first(x)
        for number, stage in enumerate(self.stages):
            y = self.between[number - 1](y) if number else y
            for block in stage:
                y = block(y)
        return self.classifier(y.mean((2, 3)))


class Block(nn.Module):
    def __init__(self, width, after):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.after = after

    def forward(self, x):
        return self.after(x + self.conv2(self.conv1(x).tanh()))


def two_layers(width):
    return nn.Sequential(nn.Linear(width, 6), nn.Tanh(), nn.Linear(6, width))


def matrix(width):
    return nn.Linear(width, width, bias=False)


def make(*args, seed=0, **options):
    torch.manual_seed(seed)
    return Steps(*args, **options).double().eval()
