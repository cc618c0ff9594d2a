"""Parts of an attached network: one after the other, checkpointed, compiled, interrupted."""

import copy

import pytest
import torch
from home_made import HomeMade
from torch import nn
from torch.utils.checkpoint import checkpoint

import timestepper
from timestepper.networks import create


@pytest.fixture
def network():
    torch.manual_seed(0)
    return timestepper.attach(HomeMade().double().eval(), "2fc")


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 8, 6, 6, dtype=torch.float64, generator=generator)


def gradients(network):
    return {n: p.grad for n, p in network.named_parameters() if p.grad is not None}


def test_each_part_may_have_its_backward(network, features):
    together = copy.deepcopy(network)
    sum(block(features).square().sum() for block in together.layer1).backward()
    for block in network.layer1:
        block(features).square().sum().backward()
    torch.testing.assert_close(gradients(network), gradients(together), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["layer1.1.conv1.weight", "layer1.1.bn2.weight", "time_stepping"])
def test_parts_see_data_that_was_exchanged(network, features, name):
    with torch.no_grad():
        network.layer1[0](features)
        for own, parameter in network.named_parameters():
            if own.startswith(name):
                parameter.data = parameter.data * 1.5
        found = network.layer1[1](features)
        assert torch.equal(found, copy.deepcopy(network).layer1[1](features))


def test_parts_in_a_transform(network, features):
    part = network.layer1[0]
    given = {name: torch.stack([p, 2 * p]) for name, p in part.named_parameters()}
    found = torch.func.vmap(lambda one: torch.func.functional_call(part, one, features))(given)
    for index in (0, 1):
        one = {name: stacked[index] for name, stacked in given.items()}
        expected = torch.func.functional_call(part, one, features)
        torch.testing.assert_close(found[index], expected)


def test_checkpointed_parts(network, features):
    plainly = copy.deepcopy(network)
    plainly.layer1(features).square().sum().backward()
    result = features
    for block in network.layer1:
        result = checkpoint(block, result, use_reentrant=False)
    result.square().sum().backward()
    torch.testing.assert_close(gradients(network), gradients(plainly), rtol=1e-10, atol=1e-12)


def test_a_pass_without_gradients_before_a_checkpointed_backward(network, features):
    class Checkpointed(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, x):
            return checkpoint(self.block, x, use_reentrant=False)

    images = features[:, :3]
    reference = copy.deepcopy(network)
    reference(images).square().sum().backward()
    timestepper.fold(network)
    network.layer1 = nn.Sequential(*map(Checkpointed, network.layer1))
    timestepper.attach(network, "2fc", example_input=images)
    network.time_stepping.load_state_dict(reference.time_stepping.state_dict(), strict=False)
    loss = network(images).square().sum()
    with torch.no_grad():
        network(images)
    loss.backward()
    assert gradients(network)


def test_a_compiled_part_follows_the_step_sizes(network, features):
    block = network.layer1[0]
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(compiled(features), block(features), rtol=1e-10, atol=1e-12)
        with torch.no_grad():
            for parameter in network.time_stepping.parameters():
                parameter.mul_(1.5)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_compiled_without_gradients(depth):
    network = timestepper.attach(HomeMade(depth=depth).eval(), "lstm")
    images = torch.randn(2, 3, 8, 8)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), network(images))


def test_a_compiled_pass_leaves_nothing_of_autograd_behind():
    network = timestepper.attach(HomeMade(), "lstm")
    images = torch.randn(2, 3, 8, 8)
    expected = network(images)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), expected)
    assert [stage.products for stage in network.time_stepping.stages] == [None]


def test_folds_after_an_interrupted_pass(network, features):
    def interrupt(module, inputs, output):
        raise KeyboardInterrupt

    handle = network.layer1[1].bn2.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        network(features[:, :3])
    handle.remove()
    timestepper.fold(network)
    assert "weight" not in network.layer1[1].bn2.__dict__


def test_copies_of_data_parallel_are_refused(network, features):
    replica = network._replicate_for_data_parallel()
    with pytest.raises(timestepper.errors.AttachedError, match="DistributedDataParallel"):
        replica(features[:, :3])


@pytest.mark.parametrize("name", ["stages", "branches", "values"])
def test_stages_of_any_name(name):
    class Named(HomeMade):
        def forward(self, x):
            return self.fc(getattr(self, name)(self.conv(x)).mean((2, 3)))

    network = Named()
    setattr(network, name, network.layer1)
    del network.layer1
    timestepper.attach(network, 0.5)
    assert list(timestepper.evolution_time(network)) == [name]


@pytest.mark.parametrize("controller", ["lstm", "lstm+"])
def test_compiled_under_autocast(controller):
    network = timestepper.attach(create("cifar_resnet14"), controller).train()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    images = torch.randn(4, 3, 8, 8)
    gradients = []
    for run in (network, compiled):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = run(images).float().square().mean()
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99
