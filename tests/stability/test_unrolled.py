"""The steps of a network, and its pass repeated in parts."""

from copy import deepcopy

import pytest
import torch
from dense_matrices import jacobian, norm
from torch import nn
from torch.nn import functional
from torchvision.models import resnet18

import timestepper
from timestepper.errors import StabilityError
from timestepper.networks import create
from timestepper.stability import gradient_flow, measure_stability, trajectory, unroll
from timestepper.stability.operators import Jacobian
from timestepper.stability.unrolled import unstepped
from timestepper.stepping import Branch


class Block(nn.Module):
    def __init__(self, width, *, shared=None):
        super().__init__()
        self.body = shared or nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1)
        )

    def forward(self, x):
        return x + self.body(x)


def test_states_and_branches_are_those_of_the_blocks():
    network = resnet18(num_classes=7).eval()
    seen = {}
    for name, module in network.named_modules():
        if type(module).__name__ == "BasicBlock":
            module.register_forward_hook(
                lambda module, inputs, output, name=name: seen.update({name: (*inputs, output)})
            )
    images = torch.randn(1, 3, 64, 64)
    logits = network(images)
    unrolled = unroll(network, images)
    values = unrolled.evaluate(images)
    assert torch.equal(values[unrolled.output], logits)
    assert [step.branch.name for step in unrolled.steps] == list(seen)
    for step in unrolled.steps:
        inputs, output = seen[step.branch.name]
        assert torch.equal(values[step.start], inputs)
        assert torch.equal(values[step.state], output)
        assert torch.equal((values[step.shortcut] + values[step.end]).relu(), output)
        assert step.is_plain == (network.get_submodule(step.branch.name).downsample is None)
    assert [len(steps) for steps in unrolled.stages.values()] == [2, 2, 2, 2]


@pytest.mark.parametrize("controller", ["lstm", "indp"])
def test_attached_networks_are_folded_copies(controller):
    network = create("cifar_resnet8", num_classes=10).eval()
    images = torch.randn(2, 3, 16, 16)
    timestepper.attach(network, controller, example_input=images)
    unrolled = unroll(network, images)
    assert hasattr(network, "time_stepping")
    values = unrolled.evaluate(images)
    assert torch.equal(values[unrolled.output], network(images))
    # Without the step sizes, whatever the branch's function gives is Δt times smaller.
    plain = unrolled.evaluate(images, unstepped(network))
    first = unrolled.steps[0]
    steps = timestepper.step_sizes(network)[first.branch.name]
    scaled = plain[first.end] * steps[:, None, None]
    assert torch.allclose(scaled, values[first.end], rtol=1e-10, atol=0)


def test_other_parameters_take_part_in_gradients():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), Block(4), nn.Flatten(), nn.Linear(144, 2)).eval()
    images = torch.randn(1, 3, 8, 8)
    unrolled = unroll(network, images)
    tensors = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}
    result = unrolled.run({0: images}, 0, [unrolled.output], tensors)[unrolled.output]
    found = torch.autograd.grad(result.square().sum(), list(tensors.values()))
    expected = torch.autograd.grad(network(images).square().sum(), list(network.parameters()))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-12)


def test_shared_blocks_take_a_step_for_each_use():
    block = Block(4)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), block, block, Block(4)).eval()
    unrolled = unroll(network, torch.randn(1, 3, 8, 8))
    assert [step.branch.name for step in unrolled.steps] == ["1", "1", "3"]
    assert [a.state for a in unrolled.steps[:-1]] == [b.start for b in unrolled.steps[1:]]


class ThreeTerms(nn.Module):
    """A state and two branches in a row of additions."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return x + self.first(x) + self.second(x)


class Parallel(nn.Module):
    """Two branches of one state."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.one = nn.Conv2d(width, width, 1)
        self.other = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        y = self.norm(x)
        return x + self.one(y) + self.other(y)


def test_parallel_branches_start_at_the_state_they_share():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), Parallel(4)).eval()
    images = torch.randn(1, 3, 8, 8)
    branches = [Branch(n, "1", (f"1.{n}",), (f"1.{n}",)) for n in ("one", "other")]
    unrolled = unroll(network, images, branches)
    values = unrolled.evaluate(images)
    assert len(unrolled.steps) == 2
    for step in unrolled.steps:
        assert torch.equal(values[step.start], network[0](images))


@pytest.mark.parametrize("inplace", [False, True])
def test_jacobians_of_hardsigmoid(inplace):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), Block(4))
    network[1].body[1] = nn.Hardsigmoid(inplace)
    network.eval()
    images = 4 * torch.randn(1, 3, 6, 6)
    unrolled = unroll(network, images)
    (step,) = unrolled.steps
    values = unrolled.evaluate(images)
    function = unrolled.function(values, step.start, step.end)
    body = deepcopy(network[1].body)
    body[1] = nn.Hardsigmoid()
    expected = norm(jacobian(body, values[step.start]))
    assert Jacobian(function, values[step.start]).spectral_norm() == pytest.approx(expected)


class Writes(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block(3)

    def forward(self, x):
        x = functional.pad(self.block(x), (1, 1, 1, 1), "circular")
        x[:, :1] += x[:, 1:2].mean()
        x.flatten(1)[:, 3:5] = 0.5
        return x


class Centres(Writes):
    def forward(self, x):
        x = super().forward(x)
        return x - torch.std_mean(x)[1]


class Reads(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block(3)

    def forward(self, x):
        return self.block(x) * x.abs().max().item()


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block(3)

    def forward(self, x):
        return {"features": self.block(x), "loss": None, "count": 3}


def test_networks_of_several_outputs():
    assert len(unroll(Several().eval(), torch.randn(1, 3, 8, 8)).steps) == 1


class Heads(nn.Module):
    """The auxiliary head, which runs last, reads the first state."""

    def __init__(self, *, backwards=False):
        super().__init__()
        self.blocks = nn.ModuleList(Block(3) for _ in range(2))
        self.head, self.auxiliary = nn.Linear(3, 4), nn.Linear(3, 2)
        self.backwards = backwards

    def forward(self, x):
        first = self.blocks[0](x)
        second = self.blocks[1](first)
        outputs = self.head(second.mean((2, 3))), self.auxiliary(first.mean((2, 3)))
        return outputs[::-1] if self.backwards else outputs


@pytest.mark.parametrize("backwards", [False, True])
def test_the_output_comes_from_all_steps(backwards):
    network = Heads(backwards=backwards).eval()
    images, labels = torch.randn(2, 3, 5, 5), torch.tensor([3, 1])
    first = network.blocks[0](images)
    second = network.blocks[1](first)
    logits = network.head(second.mean((2, 3)))
    unrolled = unroll(network, images)
    assert torch.equal(unrolled.evaluate(images)[unrolled.output], logits)
    for found, expected in zip(
        trajectory(network, images).states, (images, first, second), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
    gradients = torch.autograd.grad(loss, (first, second))
    norms = [gradient.flatten(1).norm(dim=1).mean().item() for gradient in gradients]
    assert gradient_flow(network, images, labels).norms[1:] == pytest.approx(norms, rel=1e-10)
    assert len(measure_stability(network, images, directions=1).steps) == 2


class Towers(nn.Module):
    """Two residual networks side by side."""

    def __init__(self):
        super().__init__()
        self.towers = nn.ModuleList(nn.Sequential(nn.Conv2d(3, 3, 1), Block(3)) for _ in range(2))

    def forward(self, x):
        return [tower(x).mean((2, 3)) for tower in self.towers]


def test_writes_into_slices_are_repeated():
    network, images = Writes().eval(), torch.randn(1, 3, 8, 8)
    unrolled, others = unroll(network, images), torch.randn(1, 3, 8, 8)
    assert torch.equal(unrolled.evaluate(others)[unrolled.output], network(others))


def test_no_output_comes_from_all_steps():
    network, images = Towers().eval(), torch.randn(1, 3, 5, 5)
    states = trajectory(network, images).states
    for tower, state in zip(network.towers, states[1:], strict=True):
        torch.testing.assert_close(state, tower(images), rtol=1e-10, atol=1e-12)
    # What happens to the first tower does not reach the second.
    assert measure_stability(network, images, directions=1).steps[1].worst == 0
    with pytest.raises(StabilityError, match="nothing that Towers returns comes from all of its"):
        gradient_flow(network, images, torch.tensor([1]))


class Blend(Block):
    def __init__(self, width, *, alpha=1, pooled=False):
        super().__init__(width)
        self.alpha, self.pooled = alpha, pooled

    def forward(self, x):
        branch = self.body(x.mean((2, 3), keepdim=True) if self.pooled else x)
        return torch.add(x, branch, alpha=self.alpha)


@pytest.mark.parametrize("options", [{"alpha": 3}, {"pooled": True}])
def test_sums_that_are_no_euler_step_are_refused(options):
    branch = Branch("0", "s", ("0.body.0", "0.body.2"), ("0.body.2",))
    images = torch.randn(1, 3, 8, 8)
    assert len(unroll(nn.Sequential(Blend(3)).eval(), images, [branch]).steps) == 1
    with pytest.raises(StabilityError, match=r"^branch 0 joins the state by a sum with a factor"):
        unroll(nn.Sequential(Blend(3, **options)).eval(), images, [branch])


def test_refusals():
    images = torch.randn(1, 3, 8, 8)
    network = nn.Sequential(Block(3), nn.Flatten(), nn.Linear(192, 2))
    with pytest.raises(StabilityError, match=r"training mode.*call network.eval\(\) first"):
        unroll(network, images)
    network.eval()[0].body.train()
    with pytest.raises(StabilityError, match=r"^0\.body is in training mode"):
        unroll(network, images)
    network.eval()
    with pytest.raises(StabilityError, match=r"has shape \(1, 3, 9, 9\).*\(1, 3, 8, 8\)"):
        unroll(network, images).evaluate(torch.randn(1, 3, 9, 9))
    with pytest.raises(StabilityError, match="can't be repeated"):
        unroll(Centres().eval(), images)
    with pytest.raises(StabilityError, match="reads numbers out of its features"):
        unroll(Reads().eval(), images)
    with pytest.raises(StabilityError, match="concatenation"):
        unroll(create("cifar_densenet10_k4", num_classes=3).eval(), torch.randn(1, 3, 32, 32))
    with pytest.raises(StabilityError, match=r"several additions: write x \+ \(f \+ g\)"):
        unroll(ThreeTerms().eval(), images)
    with torch.no_grad():
        network[0].body[2].weight[0] = float("nan")
    with pytest.raises(StabilityError, match=r"not finite: 0\.body\.2\.weight holds NaN"):
        unroll(network, images)
