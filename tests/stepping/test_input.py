"""Networks and inputs of unusual kinds: each works or gives one clear error."""

import copy
from dataclasses import dataclass

import pytest
import torch
from home_made import Block, HomeMade
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from transformers.utils import ModelOutput

import timestepper
from timestepper.errors import NoBranchError, TimestepperError


class Restless(HomeMade):
    """Counts, averages and caches in every forward pass, in eval mode too, and draws numbers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("average", torch.zeros(8), persistent=False)
        self.plain = torch.zeros(3)
        self.cache = {}
        self.log = []
        self.number = 0

    def forward(self, x):
        self.calls += 1
        self.plain += 1
        self.number += 1
        self.cache["bias"] = self.fc.bias * 2
        self.log.append(self.number)
        x = self.conv(x)
        self.average = 0.9 * self.average + 0.1 * x.mean((0, 2, 3))
        x = x + 0 * torch.rand(())
        return self.fc(self.layer1(x).mean((2, 3)))


def test_watching_leaves_counters_statistics_and_caches_as_they_were():
    network = Restless().train()
    network.layer1[1].eval()
    network(torch.randn(2, 3, 8, 8))
    buffers = dict(network.named_buffers())
    state = {name: tensor.clone() for name, tensor in buffers.items()}
    plain, cache, log = network.plain.clone(), dict(network.cache), list(network.log)
    modes = [module.training for module in network.modules()]
    random = torch.get_rng_state()
    timestepper.find_branches(network)
    after = dict(network.named_buffers())
    assert all(after[name] is buffers[name] for name in buffers)
    assert all(torch.equal(after[name], state[name]) for name in state)
    assert torch.equal(network.plain, plain)
    assert (network.cache, network.log, network.number) == (cache, log, 1)
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)


def test_watching_leaves_everything_as_it_was_where_it_fails():
    network = Restless().train()
    with pytest.raises(NoBranchError):
        timestepper.find_branches(network, torch.zeros(1, 4, 8, 8))
    assert (network.calls.item(), network.number, network.log) == (0, 0, [])
    assert network.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


class LowRank(nn.Linear):
    """Merges a product of low rank into its weight in eval mode."""

    def __init__(self, width):
        super().__init__(width, width)
        self.down = nn.Parameter(torch.randn(2, width))
        self.up = nn.Parameter(torch.randn(width, 2))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * self.up @ self.down
            self.merged = not mode
        return self

    def forward(self, x):
        return super().forward(x) + (0 if self.merged else x @ self.down.T @ self.up.T)


class Clipped(nn.Linear):
    """Limits the norms of its weight's rows."""

    def forward(self, x):
        self.weight.data = torch.renorm(self.weight.data, 2, 0, 0.1)
        return super().forward(x)


@pytest.mark.parametrize("layer", [LowRank, lambda width: Clipped(width, width)])
@pytest.mark.parametrize("merged", [True, False])
def test_watching_leaves_weights_that_passes_and_modes_change(layer, merged):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = layer(4), nn.Linear(4, 4)

        def forward(self, x):
            return x + self.b(self.a(x).relu())

    network = nn.Sequential(nn.Linear(4, 4), Block(), Block())
    network[1].a.train(not merged)
    modes = [module.training for module in network.modules()]
    before = {name: (p, p.clone(), p.data_ptr()) for name, p in network.named_parameters()}
    assert len(timestepper.find_branches(network, torch.randn(2, 4))) == 2
    assert [module.training for module in network.modules()] == modes
    assert [getattr(block.a, "merged", None) for block in network[1:]] in (
        [merged, False],
        [None] * 2,
    )
    for name, parameter in network.named_parameters():
        same, values, address = before[name]
        assert parameter is same
        assert parameter.data_ptr() == address
        assert torch.equal(parameter, values)


def test_watching_a_network_that_keeps_its_last_output():
    @dataclass
    class Output(ModelOutput):
        scores: Tensor | None = None

    class Keeping(HomeMade):
        def forward(self, x):
            self.last = Output(scores=super().forward(x))
            return self.last

    network = Keeping()
    last = network(torch.randn(2, 3, 8, 8))
    scores = last.scores.clone()
    assert len(timestepper.find_branches(network)) == 3
    assert network.last is last
    assert torch.equal(last.scores, scores)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_watching_leaves_the_random_state_of_the_gpu():
    class Noisy(HomeMade):
        def forward(self, x):
            return super().forward(x + 0 * torch.rand_like(x))

    network = Noisy().cuda()
    before = torch.cuda.get_rng_state()
    timestepper.find_branches(network)
    assert torch.equal(torch.cuda.get_rng_state(), before)


class Parts(nn.Module):
    """Takes what it needs by keyword and answers with a dictionary or a dataclass."""

    def __init__(self, answer):
        super().__init__()
        self.network = HomeMade()
        self.answer = answer

    def forward(self, *, images, scale):
        return self.answer(self.network(images * scale["by"]))


@dataclass
class Answer:
    scores: Tensor


@pytest.mark.parametrize("answer", [lambda y: {"scores": y}, Answer], ids=["dict", "dataclass"])
def test_keyword_inputs_and_structured_outputs(answer):
    network = Parts(answer).eval()
    inputs = {"images": torch.randn(2, 3, 8, 8), "scale": {"by": torch.ones(())}}
    with pytest.raises(NoBranchError, match=r"example_input= with.*a dict of keyword arguments"):
        timestepper.attach(network)
    timestepper.attach(network, example_input=inputs)
    assert set(timestepper.step_sizes(network)) == {f"network.layer1.{i}" for i in range(3)}
    with torch.no_grad():
        before, after = network(**inputs), timestepper.fold(network)(**inputs)
    scores = [y["scores"] if isinstance(y, dict) else y.scores for y in (before, after)]
    assert torch.equal(*scores)


class Pair(HomeMade):
    def forward(self, one, two):
        return super().forward(one + two)


def test_several_positional_inputs():
    pair = torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8)
    with pytest.raises(NoBranchError, match="a tuple of positional arguments"):
        timestepper.find_branches(Pair())
    assert len(timestepper.find_branches(Pair(), pair)) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    network = HomeMade().to(dtype).eval()
    timestepper.attach(network)
    assert {p.dtype for p in network.parameters()} == {dtype}
    images = torch.randn(2, 3, 16, 16, dtype=dtype)
    network(images).float().sum().backward()
    with torch.no_grad():
        before = network(images)
        assert torch.equal(timestepper.fold(network)(images), before)


def test_meta_device_then_real_weights():
    with torch.device("meta"):
        network = HomeMade()
    timestepper.attach(network, "indp")
    assert all(p.is_meta for p in network.parameters())
    real = timestepper.attach(HomeMade(), "indp").eval()
    network.to_empty(device="cpu").load_state_dict(real.state_dict())
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(network.eval()(images), real(images))


def test_several_devices_give_one_clear_error():
    network = HomeMade()
    network.layer1.to("meta")
    with pytest.raises(NoBranchError, match="the forward pass that looks for residual branches"):
        timestepper.attach(network)


def distributed(network):
    class Fake(DistributedDataParallel):
        def __init__(self, module):
            nn.Module.__init__(self)
            self.module = module

    return Fake(network)


def compiled_in_place(network):
    network.compile(backend="eager")
    return network


def lazy(network):
    network.fc = nn.LazyLinear(5)
    return network


def made_in_inference_mode(network):
    with torch.inference_mode():
        return HomeMade()


def part_compiled(network):
    network.layer1 = torch.compile(network.layer1, backend="eager")
    return network


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (DataParallel, "it is in a DataParallel: attach to the network itself and wrap it"),
        (distributed, "it is in a DistributedDataParallel"),
        (lambda n: torch.compile(n, backend="eager"), "it is compiled: attach to the network"),
        (compiled_in_place, "it is compiled"),
        (part_compiled, "its part layer1 is compiled"),
        (lambda n: torch.jit.trace(n, torch.zeros(1, 3, 8, 8)), "it is scripted or traced"),
        (lazy, r"fc\.weight has no shape yet: run one forward pass"),
        (made_in_inference_mode, r"conv\.weight was made under torch\.inference_mode"),
        (lambda n: n.state_dict(), r"a network .torch\.nn\.Module. is needed, not a"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_has_to_be_undone_first(change, message):
    with pytest.raises(NoBranchError, match=message):
        timestepper.attach(change(HomeMade()))


@pytest.mark.filterwarnings("ignore")
def test_quantised_network_gives_one_clear_error():
    class Quantised(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block(4)
            self.head = nn.Linear(4, 4)

        def forward(self, x):
            return self.head(x) + x

    network = torch.ao.quantization.quantize_dynamic(Quantised(), {nn.Linear}, torch.qint8)
    with pytest.raises(TimestepperError):
        timestepper.attach(network, example_input=torch.randn(2, 4))


class Choosing(HomeMade):
    """Asks for a number in its forward pass."""

    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


def test_a_forward_pass_may_ask_for_numbers():
    assert len(timestepper.find_branches(Choosing())) == 3


class NoLayers(nn.Module):
    def forward(self, x):
        return x + x.relu()


class TransposedLayer(nn.Module):
    """A weight as (in, out), as in Hugging Face's GPT-2."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


class OwnLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = TransposedLayer(4)
        self.table = nn.Embedding(4, 4)

    def forward(self, x):
        return x + self.layer(x) * self.table.weight


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (NoLayers(), "no residual branch was found in NoLayers"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), "no residual branch was found in Seq"),
        (OwnLayers(), r"layers of class TransposedLayer: exchange them for torch\.nn"),
    ],
)
def test_networks_without_branches(network, message):
    images = torch.randn(4, 4) if isinstance(network, OwnLayers) else None
    with pytest.raises(NoBranchError, match=message):
        timestepper.attach(network, example_input=images)


def test_blocks_shared_in_part_are_refused():
    blocks = nn.Sequential(Block(3), Block(3))
    blocks[1].bn2 = blocks[0].bn2
    plain = copy.deepcopy(blocks)
    with pytest.raises(TimestepperError, match=r"the (weight|bias) of 0\.bn2 is used 2 times"):
        timestepper.attach(blocks)
    assert list(blocks.state_dict()) == list(plain.state_dict())
