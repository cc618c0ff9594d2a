"""Families of networks from timm, torchvision and Hugging Face: found, trained a step, folded."""

import pytest
import timm
import torch
import torchvision
import transformers
from torch import nn
from torch.utils._pytree import tree_leaves

import timestepper
from timestepper.errors import FoldError, NoBranchError

# Models of timm, with options that make them smaller.
TIMM = {
    "test_resnet": {},
    "resnetv2_50d_gn": {"layers": (1, 1, 1, 1)},
    "wide_resnet50_2": {"layers": (1, 1, 1, 1)},
    "resnet50t": {"layers": (1, 1, 1, 1)},
    "seresnet18": {"layers": (1, 1, 1, 1)},
    "ecaresnet26t": {"layers": (1, 1, 1, 1)},
    "skresnet18": {"layers": (1, 1, 1, 1)},
    "regnety_002": {},
    "mobilenetv2_035": {},
    "mobilenetv3_small_050": {},
    "test_nfnet": {},
    "test_convnext2": {},
    "test_vit2": {},
    "deit_tiny_patch16_224": {"depth": 2},
    "swin_tiny_patch4_window7_224": {"depths": (1, 1, 2, 1), "embed_dim": 24},
    "edgenext_xx_small": {},
    "repghostnet_050": {},
    "hgnetv2_b0": {},
    "xcit_nano_12_p8_224": {"depth": 1},
}
TIMM_SLOW = [
    "csatv2",
    "eca_vovnet39b",
    "resnetv2_18",
    "resnet18d",
    "cspresnet50",
    "mixer_s32_224",
    "resmlp_12_224",
]
TORCHVISION = [
    *("resnet18", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "efficientnet_b0"),
    *("regnet_y_400mf", "convnext_tiny", "swin_t", "swin_v2_t", "maxvit_t", "vit_b_32"),
]
# Without residual connections, or none that is an addition.
TORCHVISION_WITHOUT = ["shufflenet_v2_x0_5", "squeezenet1_1", "googlenet"]


def check(network: nn.Module, inputs: dict[str, torch.Tensor]) -> list[timestepper.Branch]:
    """Attach, train a step, fold; give the branches."""
    with torch.no_grad():  # Many start norms or scales at zero, which hides every branch.
        for parameter in network.parameters():
            if parameter.numel() == max(parameter.shape, default=1):
                parameter.uniform_(0.5, 1.5)
            elif not parameter.any():
                nn.init.normal_(parameter, std=0.02)
    keys = list(network.state_dict())

    def outputs():
        leaves = tree_leaves(network(**inputs))
        return [y for y in leaves if isinstance(y, torch.Tensor) and y.is_floating_point()]

    timestepper.attach(network, example_input=inputs)
    branches = list(network.time_stepping.branches)
    assert len(timestepper.step_sizes(network)) == len(branches)
    names = {name for branch in branches for name in (branch.name, branch.stage)}
    assert not any("" in name.split(".") for name in names)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    before = timestepper.step_sizes(network)
    network.train()
    sum(y.square().mean() for y in outputs()).backward()
    optimizer.step()
    after = timestepper.step_sizes(network)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    network.eval()
    with torch.no_grad():
        attached = outputs()
        timestepper.fold(network)
        assert all(torch.equal(*pair) for pair in zip(outputs(), attached, strict=True))
    assert list(network.state_dict()) == keys
    return branches


@pytest.mark.parametrize(
    "name", [*TIMM, *(pytest.param(name, marks=pytest.mark.slow) for name in TIMM_SLOW)]
)
def test_timm(name):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=4, **TIMM.get(name, {}))
    fixed = network.pretrained_cfg.get("fixed_input_size")
    size = network.pretrained_cfg["input_size"][-1] if fixed else 64
    check(network, {"x": torch.randn(2, 3, size, size)})


def test_attention_and_mlp_have_controllers_of_their_own():
    branches = timestepper.find_branches(timm.create_model("test_vit"))
    stages = {branch.name.rpartition(".")[2]: branch.stage for branch in branches}
    assert stages == {"attn": "blocks.attn", "mlp": "blocks.mlp"}


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name):
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, num_classes=4)
    size = 224 if name.startswith(("vit", "maxvit")) else 64
    check(network, {"x": torch.randn(2, 3, size, size)})


@pytest.mark.parametrize("name", TORCHVISION_WITHOUT)
def test_torchvision_without_residuals(name):
    options = {"init_weights": False} if name == "googlenet" else {}
    network = torchvision.models.get_model(name, **options)
    with pytest.raises(NoBranchError, match="no residual branch was found"):
        timestepper.attach(network, example_input=torch.zeros(1, 3, 96, 96))


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TOKENS = {"input_ids": torch.arange(12).view(2, 6)}
HUGGING_FACE = {
    "bert": (
        lambda: transformers.BertModel(
            transformers.BertConfig(vocab_size=20, intermediate_size=32, **SMALL)
        ),
        TOKENS,
        {"encoder.layer.attention.output", "encoder.layer.output"},
    ),
    "llama": (
        lambda: transformers.LlamaModel(
            transformers.LlamaConfig(vocab_size=20, intermediate_size=32, **SMALL)
        ),
        TOKENS,
        {"layers.self_attn", "layers.mlp"},
    ),
    "vit": (
        lambda: transformers.ViTModel(
            transformers.ViTConfig(image_size=32, patch_size=16, intermediate_size=32, **SMALL)
        ),
        {"pixel_values": torch.randn(2, 3, 32, 32)},
        {"layers.attention", "layers.mlp"},
    ),
}


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_hugging_face(name):
    make, inputs, stages = HUGGING_FACE[name]
    torch.manual_seed(0)
    branches = check(make(), inputs)
    assert {branch.stage for branch in branches} == stages
    assert len(branches) == 4


def test_gpt2_has_layers_that_are_not_read():
    config = transformers.GPT2Config(vocab_size=20, n_embd=16, n_layer=2, n_head=2)
    with pytest.raises(NoBranchError, match=r"layers of class Conv1D.*exchange them"):
        timestepper.attach(transformers.GPT2Model(config), example_input=TOKENS)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cs3darknet_focus_s", "ends in silu"),
        ("cspnext_tiny", "ends in silu"),
        ("efficientvim_m1", "ends in bmm"),
    ],
)
def test_what_does_not_fold_in_timm(name, reason):
    network = timm.create_model(name)
    with pytest.raises(FoldError, match=reason):
        timestepper.attach(network)
    assert not hasattr(network, "time_stepping")
