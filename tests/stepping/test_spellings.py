"""Residual blocks as people write them: step sizes act on all of F, or attaching says why not."""

import copy
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from reference import Random
from spelled import WIDTH, Parts, make, require_eq_13
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

import timestepper
from timestepper.errors import FoldError, NoBranchError


def two(net, i, x, h):
    if h is None:
        return x + net.a[i](x) + net.b[i](x)
    return x + h * (net.a[i](x) + net.b[i](x))


def three_in_another_order(net, i, x, h):
    if h is None:
        return net.b[i](x) + x + net.c[i](net.a[i](x)) + net.norm[i](net.a[i](x))
    deep = net.c[i](net.a[i](x))
    return x + h * (net.b[i](x) + deep + net.norm[i](net.a[i](x)))


def in_place(net, i, x, h):
    if h is not None:
        return x + h * (net.a[i](x) + net.b[i](x))
    y = x.clone()
    y += net.a[i](x)
    y += net.b[i](x)
    return y


def beside_a_normed_identity(net, i, x, h):
    if h is None:
        return torch.relu(net.norm[i](x) + net.a[i](x) + net.b[i](x))
    return torch.relu(net.norm[i](x) + h * (net.a[i](x) + net.b[i](x)))


def of_one_normed_state(net, i, x, h):
    z = net.norm[i](x)
    if h is None:
        return x + net.b[i](net.a[i](z)) + net.c[i](z)
    return x + h * (net.b[i](net.a[i](z)) + net.c[i](z))


def by_sum(net, i, x, h):
    return sum([x, net.a[i](x)]) if h is None else x + h * net.a[i](x)


def a_sum_of_paths(net, i, x, h):
    if h is None:
        return sum(path(x) for path in (net.a[i], net.b[i])) + x
    return x + h * (net.a[i](x) + net.b[i](x))


def the_network_s_own_gain(net, i, x, h):
    features = net.gain[i] * net.a[i](x).relu()
    return x + (features if h is None else h * features)


def a_functional_convolution(net, i, x, h):
    features = functional.conv2d(x, net.a[i].weight, net.a[i].bias, padding=1)
    return x + (features if h is None else h * features)


def a_functional_norm(net, i, x, h):
    norm = net.norm[i]
    features = functional.batch_norm(
        net.a[i](x), norm.running_mean, norm.running_var, norm.weight, norm.bias
    )
    return x + (features if h is None else h * features)


def past_call(net, i, x, h):
    features = net.b[i].forward(net.a[i](x))
    return x + (features if h is None else h * features)


def padded_by_zeros(net, i, x, h):
    shortcut = torch.cat([x[:, :2], torch.zeros_like(x[:, :2])], 1)
    features = net.c[i](net.a[i](x).relu())
    return shortcut + (features if h is None else h * features)


def padded_by_products(net, i, x, h):
    shortcut = torch.cat([x[:, :2], x[:, :2].mul(0)], 1)
    features = net.c[i](net.a[i](x).relu())
    return shortcut + (features if h is None else h * features)


def mirrored(net, i, x, h):
    shortcut = functional.pad(x[..., 1:-1, 1:-1], (1, 1, 1, 1), "reflect")
    features = net.c[i](net.a[i](x).relu())
    return shortcut + (features if h is None else h * features)


SPELLINGS = [
    two,
    three_in_another_order,
    in_place,
    beside_a_normed_identity,
    of_one_normed_state,
    by_sum,
    a_sum_of_paths,
    the_network_s_own_gain,
    a_functional_convolution,
    a_functional_norm,
    past_call,
    padded_by_zeros,
    padded_by_products,
    mirrored,
]


@pytest.mark.parametrize("function", SPELLINGS)
def test_equals_eq_13_written_out_and_folds(function):
    require_eq_13(function)


def test_preserve_for_the_network_s_own_gain():
    network, images = make(the_network_s_own_gain)
    with torch.no_grad():
        before = network(images)
        timestepper.attach(network, Random, example_input=images, preserve=True)
        torch.testing.assert_close(network(images), before, rtol=1e-11, atol=1e-13)


def test_a_branch_of_its_own_between_two_that_are_added_is_one_of_its_own():
    """Of x + a(x) + b(x + a(x)), b is another step."""

    def chained(net, i, x, h):
        y = x + net.a[i](x)
        return y + net.b[i](y)

    network, images = make(chained)
    branches = timestepper.find_branches(network, images)
    assert [branch.scaled for branch in branches] == [("a.0",), ("b.0",), ("a.1",), ("b.1",)]


def test_gains_along_another_axis_are_no_step_sizes():
    """One for each token stays the branch's own."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)
            self.gain = nn.Parameter(torch.rand(5, 1))

        def forward(self, x):
            return x + self.linear(x) * self.gain

    network, tokens = nn.Sequential(Tokens(), Tokens()).double(), torch.randn(2, 5, 8).double()
    branches = timestepper.find_branches(network, tokens)
    assert [branch.scaled for branch in branches] == [("0.linear",), ("1.linear",)]


def test_weights_past_their_module_are_refused():
    class Kept(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 1)
            self.kept = [self.conv.weight, self.conv.bias]

        def forward(self, images):
            x = self.stem(images)
            return x + functional.conv2d(x, *self.kept)

    network, images = Kept(), torch.randn(1, 3, 6, 6)
    with pytest.raises(FoldError, match=r"don't reach conv\.weight: the forward of the network"):
        timestepper.attach(network, example_input=images)
    assert not hasattr(network, "time_stepping")
    assert not network._forward_pre_hooks


def test_weights_that_are_plain_attributes_too_are_seen():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 1, bias=False)
            object.__setattr__(self, "tied", self.conv.weight)

        def forward(self, images):
            x = self.stem(images)
            return functional.conv2d(x + self.conv(x), self.tied)

    class Apart(Tied):
        def forward(self, images):
            x = self.stem(images)
            return x + functional.conv2d(x, self.tied)

    images = torch.randn(1, 3, 6, 6)
    with pytest.raises(FoldError, match="used 2 times"):
        timestepper.attach(Tied(), example_input=images)
    with pytest.raises(FoldError, match=r"don't reach conv\.weight"):
        timestepper.attach(Apart(), example_input=images)


def test_what_is_returned_too_is_refused():
    class Outputs(Parts):
        def forward(self, images):
            x = self.stem(images)
            features = self.a[0](x)
            return x + features, features.flatten(1)

    with pytest.raises(FoldError, match=r"branch a\.0: the network returns its result too"):
        timestepper.attach(Outputs(None), example_input=torch.randn(1, 3, 6, 6))


@dataclass
class Fields:
    result: torch.Tensor
    features: object


@dataclass(slots=True)
class Slots:
    result: torch.Tensor
    features: object


@pytest.mark.parametrize(
    "kind",
    [
        Fields,
        Slots,
        lambda result, features: SimpleNamespace(result=result, features=[features]),
        lambda result, features: Fields(result, Slots(result, {"features": features})),
    ],
)
def test_what_is_returned_in_an_object_is_refused(kind):
    class Outputs(Parts):
        def forward(self, images):
            x = self.stem(images)
            features = self.a[0](x)
            output = kind(x + features, features)
            if hasattr(output, "__dict__"):
                output.itself = output
            return output

    with pytest.raises(FoldError, match=r"branch a\.0: the network returns its result too"):
        timestepper.attach(Outputs(None), example_input=torch.randn(1, 3, 6, 6))


def test_a_state_that_is_returned_is_the_end_of_a_step():
    class States(Parts):
        def forward(self, images):
            x = self.stem(images)
            first = x + self.a[0](x)
            return first + self.b[0](x), first

    branches = timestepper.find_branches(States(None), torch.randn(1, 3, 6, 6))
    assert [branch.scaled for branch in branches] == [("a.0",)]


def test_paths_of_unlike_widths_take_one_step_size():
    def side_by_side(net, i, x, h):
        return x + torch.cat([net.a[i](x)[:, :1], net.b[i](x)[:, :3]], 1)

    class Narrow(Parts):
        def __init__(self):
            super().__init__(side_by_side)
            self.a = nn.ModuleList(nn.Conv2d(WIDTH, 1, 1) for _ in range(2))
            self.b = nn.ModuleList(nn.Conv2d(WIDTH, 3, 1) for _ in range(2))

    branches = timestepper.find_branches(Narrow(), torch.randn(1, 3, 6, 6))
    assert [branch.single for branch in branches] == [True, True]


@pytest.mark.parametrize("layer", ["a", "c"])
def test_pruned_and_old_style_normalised_layers_are_refused(layer):
    def deep(net, i, x, h):
        return x + net.c[i](net.a[i](x).relu())

    pruned, images = make(deep)
    refused = {
        "a": r"a\.0 is made of its {by} by a hook.*prune\.remove",
        "c": r"c\.0( is made of its {by} by a hook|\), whose weight a hook makes)",
    }
    prune.l1_unstructured(getattr(pruned, layer)[0], "weight", 0.5)
    normed, _ = make(deep)
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(getattr(normed, layer)[0])
    for network, by in ((pruned, "weight_orig"), (normed, "weight_g")):
        with pytest.raises(FoldError, match=refused[layer].format(by=by)):
            timestepper.attach(network, example_input=images)
    prune.remove(getattr(pruned, layer)[0], "weight")
    assert len(timestepper.step_sizes(timestepper.attach(pruned, example_input=images))) == 2


def test_given_branches_name_a_module_that_is_called():
    network, images = make(the_network_s_own_gain)
    lists = timestepper.Branch("0", "s", ("a.0",), ("gain.0",))
    with pytest.raises(FoldError, match=r"gain is never called itself; name in inside"):
        timestepper.attach(network, branches=[lists])
    own = timestepper.Branch("0", "s", ("a.0",), ("gain.0",), inside=("",))
    with torch.no_grad():
        before = network(images)
        after = timestepper.attach(network, 0.5, branches=[own])(images)
        assert not torch.allclose(after, before)
        assert torch.equal(timestepper.fold(network)(images), after)


def test_attached_networks_tell_their_branches():
    network, images = make(two)
    branches = timestepper.find_branches(network, images)
    timestepper.attach(network, branches=branches)
    assert timestepper.find_branches(network, images) == branches


def test_the_example_stays_as_it_is():
    network = nn.Sequential(nn.ReLU(inplace=True), make(two)[0])
    images = torch.randn(2, 3, 6, 6).double()
    before = images.clone()
    timestepper.attach(network, example_input=images)
    assert torch.equal(images, before)


def test_attaching_under_inference_mode():
    network, images = make(by_sum)
    with torch.inference_mode():
        timestepper.attach(network, example_input=images * 1)
    network(images).sum().backward()
    assert all(p.grad is not None for p in network.time_stepping.parameters())


def test_stages_whose_names_differ_in_dots_alone():
    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.conv = nn.Conv2d(WIDTH, width, 3, padding=1)
            self.out = nn.Conv2d(width, WIDTH, 3, padding=1)

        def forward(self, x):
            return x + self.out(self.conv(x))

    network = nn.Sequential()
    network.enc = nn.Sequential()
    network.enc.block = nn.Sequential(Block(3), Block(3))
    network.enc_block = nn.Sequential(Block(5), Block(5))
    timestepper.attach(network, example_input=torch.randn(1, WIDTH, 6, 6))
    assert list(timestepper.evolution_time(network)) == ["enc.block", "enc_block_"]


@pytest.mark.parametrize(
    ("controller", "message"),
    [
        (nn.Linear(2, 2), "a controller is made for each stage; give a factory"),
        (lambda *sizes: None, "made a NoneType for stage 's', not a torch.nn.Module"),
    ],
)
def test_controllers_that_are_none(controller, message):
    branch = timestepper.Branch("0", "s", ("a.0",), "b.0")
    with pytest.raises(timestepper.errors.ConfigurationError, match=message):
        timestepper.attach(Parts(by_sum), controller, branches=[branch])


@pytest.mark.parametrize("branches", ["a.0", ["a.0"], 5])
def test_branches_that_are_none(branches):
    with pytest.raises(NoBranchError, match=r"branches must be a list of timestepper\.Branch"):
        timestepper.attach(Parts(by_sum), branches=branches)


@pytest.mark.parametrize(
    "join",
    [
        lambda x, f: x - f,
        lambda x, f: x.add(f, alpha=0.2),
        lambda x, f: torch.lerp(x, f, 0.5),
        lambda x, f: x + f.mean((2, 3), keepdim=True),
    ],
)
def test_other_joins_are_named(join):
    class Block(nn.Module):
        def __init__(self, join):
            super().__init__()
            self.join = join
            self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

        def forward(self, x):
            return self.join(x, self.conv(x))

    network, images = nn.Sequential(Block(torch.add), Block(join)), torch.randn(1, WIDTH, 6, 6)
    with pytest.warns(UserWarning, match=r"^what 1 joins to its state gets no step sizes"):
        branches = timestepper.find_branches(network, images)
    assert [branch.name for branch in branches] == ["0"]


class Mirrored(Parts):
    """Adds what it gives for mirrored images, once it is told to."""

    def __init__(self):
        super().__init__(the_network_s_own_gain)
        self.mirrors = False
        self.interrupted = False

    def forward(self, images, again=True):
        other = 0
        if self.mirrors and again:
            with torch.no_grad():
                other = self(images.flip(3), False).flip(3)
        if self.interrupted and not again:
            raise KeyboardInterrupt
        return other + super().forward(images)


def test_a_network_that_calls_itself():
    torch.manual_seed(0)
    plain, images = Mirrored().double(), torch.randn(2, 3, 6, 6).double()
    network = timestepper.attach(copy.deepcopy(plain), Random, example_input=images)
    plain.steps = [step[:, None, None] for step in timestepper.step_sizes(network).values()]
    plain.mirrors = network.mirrors = network.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        network(images)
    network.interrupted = False
    outputs = plain(images), network(images)
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-11, atol=1e-13)
    for output in outputs:
        output.square().sum().backward()
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None:
            ours = network.get_parameter(name).grad
            torch.testing.assert_close(ours, parameter.grad, rtol=1e-10, atol=1e-12)
    assert all(isinstance(gain, nn.Parameter) for gain in network.gain)
    copied = copy.deepcopy(network)
    with torch.no_grad():
        assert torch.equal(copied(images), outputs[1])
        assert torch.equal(timestepper.fold(network)(images), outputs[1])
