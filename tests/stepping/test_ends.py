"""Ends of branches of many kinds: step sizes there equal Eq. 13 written out, or are refused."""

import copy
import dataclasses

import pytest
import torch
from reference import Random
from torch import Tensor, nn

import timestepper
from timestepper.errors import FoldError, NoBranchError, StateError

WIDTH = 6


class Residual(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return x + self.body(x)


class Network(nn.Module):
    """Residual blocks around given bodies, after a layer that makes the input theirs."""

    def __init__(self, stem, *bodies):
        super().__init__()
        self.stem = stem
        self.blocks = nn.ModuleList(Residual(body) for body in bodies)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x


class Function(nn.Module):
    """A body from a function and the modules that it uses."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)


def conv(out=WIDTH, size=3, groups=1, inputs=WIDTH, **options):
    return nn.Conv2d(inputs, out, size, padding=size // 2, groups=groups, **options)


def normed():
    return nn.Sequential(conv(), nn.BatchNorm2d(WIDTH))


def widened(by=3):
    return nn.Sequential(conv(WIDTH + by), nn.BatchNorm2d(WIDTH + by))


def scales(*shape):
    return nn.Parameter(torch.rand(*shape) + 0.5)


def gated(groups=1):
    """Squeeze and excitation behind the last norm, as in SENet."""

    def body(self, x):
        u = self.main(x)
        return u * self.out(self.read(u.mean((2, 3), keepdim=True)).relu()).sigmoid()

    return Function(body, main=normed(), read=conv(4, 1, groups=groups), out=conv(size=1, inputs=4))


def gated_by_linear():
    def body(self, x):
        u = self.main(x)
        gate = self.out(self.read(nn.functional.adaptive_avg_pool2d(u, 1).flatten(1)).relu())
        return u * gate.sigmoid()[:, :, None, None]

    return Function(body, main=normed(), read=nn.Linear(WIDTH, 3), out=nn.Linear(3, WIDTH))


def depthwise_gated():
    def body(self, x):
        u = self.main(x)
        return u * self.read(u).sigmoid()

    return Function(body, main=normed(), read=conv(groups=WIDTH))


class StandardisedConv(nn.Conv2d):
    """A weight of zero mean and unit variance, times a gain, as in networks without norms."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.gain = scales(self.out_channels, 1, 1, 1)

    def forward(self, x):
        weight = nn.functional.batch_norm(
            self.weight.reshape(1, self.out_channels, -1),
            None,
            None,
            weight=(self.gain * 0.7).view(-1),
            training=True,
        ).reshape(self.weight.shape)
        return nn.functional.conv2d(x, weight, self.bias, padding=self.padding)


class RMSNorm(nn.Module):
    """RMS norm over the channels, written out."""

    def __init__(self):
        super().__init__()
        self.weight = scales(WIDTH)

    def forward(self, x):
        return x * x.pow(2).mean(-1, keepdim=True).rsqrt() * self.weight


def attention():
    return Function(
        lambda self, x: self.attention(x, x, x, need_weights=False)[0],
        attention=nn.MultiheadAttention(WIDTH, 2, batch_first=True),
    )


def bare_attention():
    def body(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return (q @ k.transpose(1, 2)).softmax(-1) @ v

    return Function(body, qkv=nn.Linear(WIDTH, 3 * WIDTH))


def channel_gate():
    """ECA: a convolution along the channels mixes what it reads."""

    def body(self, x):
        u = self.main(x)
        gate = self.read(u.mean((2, 3))[:, None]).sigmoid()
        return u * gate.transpose(1, 2)[..., None]

    return Function(body, main=normed(), read=nn.Conv1d(1, 1, 3, padding=1))


def spatial_gate():
    def body(self, x):
        u = self.main(x)
        return u * self.read(u.amax(1, keepdim=True)).sigmoid()

    return Function(body, main=normed(), read=conv(1, inputs=1))


def two_statistics():
    """CBAM: what reads mean and maximum over the channels, side by side."""

    def body(self, x):
        u = self.main(x)
        read = torch.cat([u.mean(1, keepdim=True), u.amax(1, keepdim=True)], 1)
        return u * self.read(read).sigmoid()

    return Function(body, main=normed(), read=conv(1, inputs=2))


IMAGES = {
    "instance norm": lambda: nn.Sequential(conv(), nn.InstanceNorm2d(WIDTH, affine=True)),
    "instance norm with statistics": lambda: nn.Sequential(
        conv(), nn.InstanceNorm2d(WIDTH, affine=True, track_running_stats=True), nn.ReLU()
    ),
    "gate": gated,
    "gate with groups": lambda: gated(groups=2),
    "gate of linear layers": gated_by_linear,
    "depthwise gate": depthwise_gated,
    "layer scale": lambda: Function(
        lambda self, x: self.main(x) * self.scale, main=conv(), scale=scales(WIDTH, 1, 1)
    ),
    "scalar factors": lambda: Function(
        lambda self, x: self.main(x) * 0.2 * self.scale / 3, main=conv(), scale=scales(1)
    ),
    "relu": lambda: Function(lambda self, x: self.main(x).relu(), main=normed()),
    "leaky relu": lambda: nn.Sequential(normed(), nn.LeakyReLU(inplace=True)),
    "pooling": lambda: nn.Sequential(
        normed(), nn.MaxPool2d(2), nn.AvgPool2d(3, 1, 1), nn.Upsample(scale_factor=2)
    ),
    "zero padding": lambda: nn.Sequential(
        normed(), nn.Upsample((5, 5)), nn.ZeroPad2d((0, 1, 0, 1))
    ),
    "sum of two ends": lambda: Function(
        lambda self, x: self.one(x) + self.two(x), one=normed(), two=conv(size=1)
    ),
    "sum within the end": lambda: Function(
        lambda self, x: self.one(x).add(self.two(x.relu())).relu(), one=normed(), two=normed()
    ),
    "transposed convolution": lambda: nn.Sequential(
        conv(), nn.ConvTranspose2d(WIDTH, WIDTH, 3, padding=1, groups=2)
    ),
    "concatenation": lambda: Function(
        lambda self, x: torch.cat([self.one(x[..., :2]), self.two(x[..., 2:])], -1),
        one=normed(),
        two=conv(),
    ),
    "some channels": lambda: Function(
        lambda self, x: self.main(x)[:, 2 : WIDTH + 2], main=widened()
    ),
    "gated by other channels": lambda: Function(
        lambda self, x: (u := self.main(x))[:, :WIDTH] * u[:, WIDTH:].tanh(), main=widened(WIDTH)
    ),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(conv()),
    "standardised weight": lambda: StandardisedConv(WIDTH, WIDTH, 3, padding=1),
    "parts put together again": lambda: Function(
        lambda self, x: torch.cat(self.main(x).split(2, 1), 1), main=normed()
    ),
    "linear layer as a convolution": lambda: Function(
        lambda self, x: nn.functional.conv2d(x, self.main.weight[..., None, None], self.main.bias),
        main=nn.Linear(WIDTH, WIDTH),
    ),
    "group norm": lambda: nn.Sequential(conv(), nn.GroupNorm(2, WIDTH)),
}
SINGLE = {
    "channel gate": channel_gate,
    "spatial gate": spatial_gate,
    "spatial gate of two statistics": two_statistics,
    "gate of the mean of all channels": lambda: Function(
        lambda self, x: (
            (u := self.main(x))[:, :WIDTH] * self.read(u.mean(1, keepdim=True)).sigmoid()
        ),
        main=widened(),
        read=conv(1, inputs=1),
    ),
    "gate of the maximum of all": lambda: Function(
        lambda self, x: (u := self.main(x)) * self.read(u.amax().view(1, 1, 1, 1)).sigmoid(),
        main=normed(),
        read=conv(1, inputs=1),
    ),
    "sum of unlike channels": lambda: Function(
        lambda self, x: self.one(x) + self.two(x).flip(1), one=normed(), two=normed()
    ),
    "every second channel": lambda: Function(
        lambda self, x: self.main(x)[:, ::2], main=conv(2 * WIDTH)
    ),
}
"""Ends that one step size for all channels has a place in, but not one for each."""


TOKENS = {
    "linear": lambda: nn.Sequential(nn.Linear(WIDTH, 9), nn.GELU(), nn.Linear(9, WIDTH)),
    "layer norm": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)),
    "rms norm": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.RMSNorm(WIDTH)),
    "rms norm written out": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), RMSNorm()),
    "layer scale": lambda: Function(
        lambda self, x: self.main(x) * self.scale, main=nn.Linear(WIDTH, WIDTH), scale=scales(WIDTH)
    ),
    "attention": attention,
    "attention without projection": bare_attention,
    "window": lambda: Function(
        lambda self, x: self.main(x.view(-1, 2, 2, WIDTH)).view(x.shape).roll(1, 1),
        main=nn.Linear(WIDTH, WIDTH),
    ),
    "linear layer on a transposed view": lambda: Function(
        lambda self, x: self.main(x.transpose(1, 2).contiguous().transpose(1, 2)),
        main=nn.Linear(WIDTH, WIDTH),
    ),
}


def explicit(network: Network, steps: dict[str, Tensor], x: Tensor, axis: int) -> Tensor:
    """Eq. 13, channel by channel, on the plain network."""
    x = network.stem(x)
    for block, step in zip(network.blocks, steps.values(), strict=True):
        x = x + block.body(x) * step.view(-1, *(1 for _ in x.shape[axis + 1 :]))
    return x


def make(body, tokens):
    torch.manual_seed(0)
    stem = nn.Linear(4, WIDTH) if tokens else nn.Conv2d(3, WIDTH, 1)
    x = torch.randn(2, 8, 4) if tokens else torch.randn(2, 3, 6, 6)
    network = Network(stem, body(), body()).double()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) / 4)
    return network, x.double()


CASES = [
    *(pytest.param(body, False, id=f"single, {name}") for name, body in SINGLE.items()),
    *(pytest.param(body, False, id=f"images, {name}") for name, body in IMAGES.items()),
    *(pytest.param(body, True, id=f"tokens, {name}") for name, body in TOKENS.items()),
]


@pytest.mark.parametrize(("body", "tokens"), CASES)
def test_step_sizes_equal_the_explicit_product(body, tokens):
    plain, x = make(body, tokens)
    network = timestepper.attach(copy.deepcopy(plain), Random, example_input=x)
    steps = timestepper.step_sizes(network)
    assert list(steps) == ["blocks.0", "blocks.1"]
    assert {len(step) for step in steps.values()} == {1 if body in SINGLE.values() else WIDTH}
    for training in (True, False):
        ours = network.train(training)(x)
        theirs = explicit(plain.train(training), steps, x, axis=2 if tokens else 1)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
        weights = torch.randn_like(ours)
        for result, of in ((ours, network), (theirs, plain)):
            of.zero_grad()
            (result * weights).sum().backward()
        for name, parameter in plain.named_parameters():
            torch.testing.assert_close(
                network.get_parameter(name).grad, parameter.grad, rtol=1e-9, atol=1e-11
            )


@pytest.mark.parametrize(("body", "tokens"), CASES)
def test_folding_is_exact(body, tokens):
    network, x = make(body, tokens)
    keys = list(network.state_dict())
    timestepper.attach(network, Random, example_input=x).eval()
    with torch.no_grad():
        before = network(x)
        torch.testing.assert_close(timestepper.fold(network)(x), before, rtol=1e-10, atol=1e-12)
    assert list(network.state_dict()) == keys


@pytest.mark.parametrize(("body", "tokens"), CASES)
def test_preserve_changes_nothing(body, tokens):
    network, x = make(body, tokens)
    network.eval()
    with torch.no_grad():
        before = network(x)
        timestepper.attach(network, preserve=True, example_input=x)
        torch.testing.assert_close(network(x), before, rtol=1e-10, atol=1e-12)


def tapped():
    def body(self, x):
        u = self.main(x)
        self.tap = u.tanh()
        return u

    return Function(body, main=normed())


def shared():
    layer = conv()
    return Function(lambda self, x: layer(layer(x).relu()), layer=layer)


class TransposedWeight(nn.Module):
    """A weight used as (in, out), where linear layers use (out, in)."""

    def __init__(self):
        super().__init__()
        self.main = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x):
        return (x.flatten(0, 1) @ self.main.weight).view(x.shape)


# Both factors would take the step size.
SQUARES = [
    (lambda self, x: (u := self.main(x)).relu() * u, "used elsewhere too .by mul"),
    (lambda self, x: 0.5 * (u := self.main(x)) * u, "used elsewhere too .by mul"),
    (
        lambda self, x: nn.functional.avg_pool2d(u := self.main(x), 3, 1, 1) * u,
        "used elsewhere too .by mul",
    ),
    (lambda self, x: self.main(x) * (g := self.other(x)) + g, "used elsewhere too .by mul"),
    (
        lambda self, x: torch.bmm(u := self.main(x).flatten(0, 1), u).view(x.shape),
        "used elsewhere too .by bmm",
    ),
]


@pytest.mark.parametrize(
    ("body", "tokens", "message"),
    [
        (
            lambda: Function(lambda self, x: (u := self.main(x)) * u.relu(), main=normed()),
            False,
            "used elsewhere too .by mul",
        ),
        (
            lambda: Function(
                lambda self, x: (u := self.main(x)) * u.mean(1, keepdim=True), main=normed()
            ),
            False,
            "used elsewhere too .by mean",
        ),
        (
            lambda: Function(
                lambda self, x: (u := self.main(x)) * u.amax().sigmoid(), main=normed()
            ),
            False,
            "used elsewhere too .by amax",
        ),
        (tapped, False, "used elsewhere too .by tanh in blocks.0.body"),
        (shared, False, "used 2 times"),
        (lambda: nn.Sequential(normed(), nn.SiLU()), False, "ends in silu"),
        (
            lambda: nn.Sequential(conv(), nn.Upsample((5, 5)), nn.ConstantPad2d((0, 1, 0, 1), 1.0)),
            False,
            "ends in constant_pad_nd",
        ),
        (
            lambda: Function(lambda self, x: (u := self.main(x)) * u, main=normed()),
            False,
            "ends in mul",
        ),
        *(
            (lambda body=body: Function(body, main=normed(), other=conv()), False, by)
            for body, by in SQUARES
        ),
        (lambda: Function(lambda self, x: 1 / self.main(x), main=normed()), False, "ends in"),
        (TransposedWeight, True, "ends in"),
        (
            lambda: Function(
                lambda self, x: nn.functional.conv2d(
                    x, self.main.weight.transpose(0, 1), padding=1
                ),
                main=conv(bias=False),
            ),
            False,
            "ends in convolution",
        ),
    ],
)
def test_what_does_not_fold_is_refused(body, tokens, message):
    network, x = make(body, tokens)
    with pytest.raises(FoldError, match=message):
        timestepper.attach(network, example_input=x)
    assert not hasattr(network, "time_stepping")
    with pytest.raises(NoBranchError, match=f"none of the residual branches.*{message}"):
        timestepper.find_branches(network, x, skip_unfoldable=True)


def test_branches_that_do_not_fold_can_be_left_out():
    torch.manual_seed(0)
    bodies = [normed(), nn.Sequential(normed(), nn.SiLU()), normed()]
    network = Network(nn.Conv2d(3, WIDTH, 1), *bodies).eval()
    x = torch.randn(2, 3, 6, 6)
    with pytest.raises(
        FoldError, match=r"blocks\.1 ends in silu.*skip_unfoldable=True. leaves out"
    ):
        timestepper.attach(network, example_input=x)
    branches = timestepper.find_branches(network, x, skip_unfoldable=True)
    assert [branch.name for branch in branches] == ["blocks.0", "blocks.2"]
    timestepper.attach(network, branches=branches)
    with torch.no_grad():
        before = network(x)
        assert torch.equal(timestepper.fold(network)(x), before)


class Restless(nn.Module):
    """Step sizes that jump with every change of the weights they are computed from."""

    def __init__(self, depth, features, channels, hidden):
        super().__init__()
        self.channels = channels

    def forward(self, averaged):
        jump = 0.5 + 0.4 * torch.sin(1e9 * averaged.sum(1, keepdim=True))
        return jump.expand(-1, self.channels)


def test_preserve_gives_up_and_leaves_the_network_as_it_was():
    network, x = make(TOKENS["window"], tokens=True)
    state = copy.deepcopy(network.state_dict())
    with pytest.raises(StateError, match=r"stage 'blocks' follow the weights.*attach without it"):
        timestepper.attach(network, Restless, preserve=True, example_input=x)
    assert list(network.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_a_gate_behind_the_end_is_not_read():
    network, x = make(IMAGES["gate"], tokens=False)
    branch = timestepper.find_branches(network, x)[0]
    assert branch.weights == ("blocks.0.body.main.0",)
    assert branch.scaled == ("blocks.0.body.main.1",)
    assert branch.divided == ("blocks.0.body.read",)


def test_branches_that_share_all_parameters_share_step_sizes():
    torch.manual_seed(0)
    block = Residual(normed())
    network = nn.Sequential(nn.Conv2d(3, WIDTH, 1), block, block, nn.ReLU(), block).double().eval()
    x = torch.randn(2, 3, 6, 6).double()
    plain = copy.deepcopy(network)
    timestepper.attach(network, Random, example_input=x)
    ((name, step),) = timestepper.step_sizes(network).items()
    assert name == "1"
    expected = plain[0](x)
    for activation in (nn.Identity(), nn.ReLU(), nn.Identity()):
        expected = activation(expected + plain[1].body(expected) * step[:, None, None])
    torch.testing.assert_close(network(x), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(timestepper.fold(network)(x), expected, rtol=1e-10, atol=1e-12)
    assert len(network.state_dict()) == len(plain.state_dict())


class TwoStreams(nn.Module):
    """Both states' branches are parts of one convolution's result."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 2 * WIDTH, 1)
        self.layers = nn.ModuleList(conv(2 * WIDTH, inputs=2 * WIDTH) for _ in range(2))

    def forward(self, images):
        x, y = self.stem(images).chunk(2, 1)
        for layer in self.layers:
            f, g = layer(torch.cat([x, y], 1)).chunk(2, 1)
            x, y = x + f, y + g
        return torch.cat([x, y], 1)


def test_additions_of_parts_of_one_result_have_step_sizes_of_their_own():
    torch.manual_seed(0)
    plain, images = TwoStreams().double(), torch.randn(2, 3, 6, 6).double()
    network = timestepper.attach(copy.deepcopy(plain), Random, example_input=images)
    steps = timestepper.step_sizes(network)
    assert list(steps) == ["layers.0.0", f"layers.0.{WIDTH}", "layers.1.0", f"layers.1.{WIDTH}"]
    assert list(timestepper.evolution_time(network)) == ["layers"]
    expected = plain.stem(images)
    for index, layer in enumerate(plain.layers):
        step = torch.cat(list(steps.values())[2 * index : 2 * index + 2])
        expected = expected + step[:, None, None] * layer(expected)
    torch.testing.assert_close(network(images), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(timestepper.fold(network)(images), expected, rtol=1e-10, atol=1e-12)


def blend(self, x):
    return self.gain.sigmoid() * (self.main(x) - x)


def mixture(x, values):
    weights = x.flatten(2) @ x.flatten(2).transpose(1, 2)
    return torch.bmm(weights.softmax(-1), values.flatten(2)).view(x.shape)


def beside(self, x):
    return torch.cat([self.main(x[..., :1]), x[..., 1:]], -1)


def beside_in_place_of_all(self, x, step):
    return torch.cat([self.main(x[..., :1]) * step, x[..., 1:]], -1)


@pytest.mark.parametrize(
    ("function", "stepped"),
    [
        (blend, lambda self, x, step: self.gain.sigmoid() * (self.main(x) * step - x)),
        (beside, beside_in_place_of_all),
        (
            lambda self, x: self.main(x) - self.other(x),
            lambda self, x, step: step * (self.main(x) - self.other(x)),
        ),
        (
            lambda self, x: torch.cat([self.main(x)[:, :3], x[:, 3:]], 1),
            lambda self, x, step: torch.cat([self.main(x)[:, :3] * step, x[:, 3:]], 1),
        ),
        (
            lambda self, x: mixture(x, x + self.main(x)),
            lambda self, x, step: mixture(x, x + step * self.main(x)),
        ),
    ],
    ids=[
        "learned blend",
        "some tokens only",
        "difference of two ends",
        "some channels only",
        "attention",
    ],
)
def test_what_is_the_start_s_own_is_not_scaled(function, stepped):
    plain, x = make(
        lambda: Function(function, main=normed(), other=conv(), gain=scales(WIDTH, 1, 1)), False
    )
    plain.eval()
    network = timestepper.attach(copy.deepcopy(plain), Random, example_input=x)
    expected = plain.stem(x)
    for block, step in zip(plain.blocks, timestepper.step_sizes(network).values(), strict=True):
        expected = expected + stepped(block.body, expected, step[:, None, None])
    torch.testing.assert_close(network(x), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(timestepper.fold(network)(x), expected, rtol=1e-10, atol=1e-12)


def test_one_scale_and_bias_for_all_channels_take_one_step_size():
    def body(self, x):
        return self.main(x).relu() * self.scale + self.bias

    plain, x = make(lambda: Function(body, main=normed(), scale=scales(1), bias=scales(1)), False)
    plain.eval()
    network = timestepper.attach(copy.deepcopy(plain), Random, example_input=x)
    steps = timestepper.step_sizes(network)
    assert [step.shape for step in steps.values()] == [(1,), (1,)]
    expected = explicit(plain, steps, x, axis=1)
    torch.testing.assert_close(network(x), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(timestepper.fold(network)(x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_a_scalar_of_the_branch_s_own_is_passed(value):
    """ReZero and SkipInit: the layer in front takes the step sizes, zero stays zero."""
    plain, x = make(lambda: Function(lambda self, x: self.alpha * self.main(x), main=conv()), False)
    for block in plain.blocks:
        block.body.alpha = nn.Parameter(torch.tensor(value, dtype=torch.float64))
    network = timestepper.attach(copy.deepcopy(plain), Random, example_input=x)
    assert network.time_stepping.branches[0].scaled == ("blocks.0.body.main",)
    steps = timestepper.step_sizes(network)
    expected = explicit(plain, steps, x, axis=1)
    torch.testing.assert_close(network(x), expected, rtol=1e-10, atol=1e-12)
    kept = timestepper.attach(copy.deepcopy(plain), preserve=True, example_input=x)
    torch.testing.assert_close(kept(x), plain(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("body", [normed, IMAGES["layer scale"]], ids=["norm", "layer scale"])
def test_preserve_with_zeros(body):
    plain, x = make(body, False)
    plain.eval()
    with torch.no_grad():
        for block in plain.blocks:
            scale = block.body.scale if hasattr(block.body, "scale") else block.body[1].weight
            scale.zero_()
    network = timestepper.attach(copy.deepcopy(plain), preserve=True, example_input=x)
    torch.testing.assert_close(network(x), plain(x), rtol=1e-10, atol=1e-12)
    assert all(parameter.isfinite().all() for parameter in network.parameters())


class TwoSizes(nn.Module):
    """Two states of unlike sizes; each is changed by what both branches compute (CoaT)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 1)
        self.large, self.small = normed(), normed()

    def forward(self, x, step=1.0):
        a = self.stem(x)
        b = nn.functional.avg_pool2d(a, 2)
        f, g = self.large(a) * step, self.small(b) * step
        a = a + (f + nn.functional.interpolate(g, scale_factor=2.0, mode="bilinear"))
        b = b + (g + nn.functional.avg_pool2d(f, 2))
        return a, b


def test_branches_that_end_alike_are_one():
    torch.manual_seed(0)
    plain = TwoSizes().double().eval()
    x = torch.randn(2, 3, 8, 8).double()
    network = timestepper.attach(copy.deepcopy(plain), Random, example_input=x)
    (branch,) = network.time_stepping.branches
    assert set(branch.scaled) == {"large.1", "small.1"}
    assert set(branch.weights) == {"large.0", "small.0"}
    (step,) = timestepper.step_sizes(network).values()
    expected = plain(x, step[:, None, None])
    torch.testing.assert_close(network(x), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(timestepper.fold(network)(x), expected, rtol=1e-10, atol=1e-12)


SEQUENCES = nn.Conv1d(3, WIDTH, 1), torch.randn(2, 3, 6)
IMAGE = nn.Conv2d(3, WIDTH, 1), torch.randn(3, 6, 6)


@pytest.mark.parametrize(
    ("stem", "x", "pool"),
    [(*SEQUENCES, nn.AvgPool1d(3, 1, 1)), (*IMAGE, nn.AvgPool2d(3, 1, 1))],
    ids=["sequences", "one image"],
)
def test_pooling_of_maps_is_passed(stem, x, pool):
    body = nn.Sequential(type(stem)(WIDTH, WIDTH, 3, padding=1), pool)
    plain, x = Network(stem, body).double(), x.double()
    network = timestepper.attach(copy.deepcopy(plain), Random, example_input=x)
    (step,) = timestepper.step_sizes(network).values()
    assert len(step) == WIDTH
    state = plain.stem(x)
    step = step.view(-1, *(1 for _ in state.shape[x.ndim - len(body[0].kernel_size) :]))
    torch.testing.assert_close(network(x), state + step * body(state), rtol=1e-10, atol=1e-12)


def test_pooling_across_channels_takes_one_step_size():
    """To 2-D pooling, (batch, channels, length) is one image of several channels."""
    stem, x = SEQUENCES
    body = nn.Sequential(nn.Conv1d(WIDTH, WIDTH, 3, padding=1), nn.AvgPool2d(3, 1, 1))
    plain, x = Network(stem, body).double(), x.double()
    network = timestepper.attach(copy.deepcopy(plain), Random, example_input=x)
    (step,) = timestepper.step_sizes(network).values()
    assert len(step) == 1
    state = plain.stem(x)
    torch.testing.assert_close(network(x), state + step * body(state), rtol=1e-10, atol=1e-12)


def gated_by_a_sum(self, x):
    u = self.main(x).relu()
    v = self.other(u)
    return v * (u + v).sigmoid()


def gated_by_the_mean_of_a_sum(self, x):
    u = self.main(x).relu()
    v = self.other(u)
    return v * (u + v).mean((2, 3), keepdim=True).sigmoid()


@pytest.mark.parametrize("function", [gated_by_a_sum, gated_by_the_mean_of_a_sum])
def test_a_sum_within_a_branch_is_not_joined_with_it(function):
    """Scaling v would give x + Δt·v·sigmoid(u + Δt·v)."""
    plain, x = make(lambda: Function(function, main=normed(), other=conv()), False)
    with pytest.raises(FoldError, match="used elsewhere too"):
        timestepper.attach(plain, example_input=x)


@pytest.mark.parametrize(
    ("function", "end"),
    [
        (lambda self, x: (self.main(x) + x).relu(), "relu"),
        (lambda self, x: (u := self.main(x) - x) * u.mean((2, 3), keepdim=True).sigmoid(), "mul"),
        (
            lambda self, x: self.main(x) + torch.cat([x[..., :3], x[..., 3:]], -1).relu(),
            "ends in cat",
        ),
        (lambda self, x: self.main(x).relu() + self.bias, "add"),
        (lambda self, x: mixture(x, x + self.main(x)).relu(), "ends in bmm"),
    ],
)
def test_the_start_s_own_may_not_meet_what_is_not_linear(function, end):
    plain, x = make(lambda: Function(function, main=normed(), bias=scales(1)), False)
    with pytest.raises(FoldError, match=end):
        timestepper.attach(plain, example_input=x)


def test_gates_of_the_input_are_no_ends():
    network = Residual(Function(lambda self, x: self.main(x).sigmoid() * x, main=conv()))
    with pytest.raises(FoldError, match="ends in sigmoid "):
        timestepper.attach(network, example_input=torch.randn(2, WIDTH, 6, 6))


def test_given_branches_may_not_share_what_is_scaled():
    network, x = make(IMAGES["group norm"], tokens=False)
    first, second = timestepper.find_branches(network, x)
    twice = dataclasses.replace(second, scaled=first.scaled, inside=first.inside)
    with pytest.raises(FoldError, match=r"blocks\.0 and blocks\.1 share blocks\.0\.body\.1"):
        timestepper.attach(network, branches=[first, twice])


def test_a_controller_may_read_what_another_stage_scales():
    """A residual branch within another: the outer's controller reads the inner's layer."""

    def body(self, x):
        return self.outer((x + self.inner(x)).tanh())

    plain, x = make(lambda: Function(body, inner=conv(), outer=conv(size=1)), False)
    network = timestepper.attach(copy.deepcopy(plain), reduction=1, example_input=x)
    assert len(timestepper.evolution_time(network)) == 2
    with torch.no_grad():
        before = network(x)
        assert torch.equal(timestepper.fold(network)(x), before)
        kept = timestepper.attach(network, reduction=1, preserve=True, example_input=x)
        torch.testing.assert_close(kept(x), before, rtol=1e-10, atol=1e-12)


def test_given_branches_have_names_of_their_own():
    network, x = make(IMAGES["group norm"], tokens=False)
    first, second = timestepper.find_branches(network, x)
    with pytest.raises(NoBranchError, match=r"two branches are called 'blocks\.0'"):
        timestepper.attach(network, branches=[first, dataclasses.replace(second, name=first.name)])
    first, second = (
        dataclasses.replace(first, stage="a.b"),
        dataclasses.replace(second, stage="a_b"),
    )
    with pytest.raises(NoBranchError, match="two stages are called 'a_b'"):
        timestepper.attach(network, branches=[first, second])
    wrapped = nn.DataParallel(network)
    with pytest.raises(NoBranchError, match="DataParallel"):
        timestepper.attach(wrapped, branches=[first])


def test_channels_are_counted_beyond_what_a_cast_holds():
    body = Function(
        lambda self, x: self.main(x).bfloat16().to(x.dtype), main=conv(300, 1, inputs=300)
    )
    network = Network(nn.Conv2d(3, 300, 1), body)
    (branch,) = timestepper.find_branches(network, torch.randn(1, 3, 4, 4))
    assert branch.scaled == ("blocks.0.body.main",)
    assert branch.channels == ()
    assert not branch.single
