import pytest
import timm
import torch
import torchvision
from home_made import HomeMade
from torch import nn

from timestepper import networks

NETWORKS = {
    "torchvision": lambda: torchvision.models.resnet18(num_classes=5),
    "torchvision-bottleneck": lambda: torchvision.models.resnet50(num_classes=5),
    "timm": lambda: timm.create_model("resnet18", num_classes=5),
    "timm-resnext": lambda: timm.create_model("resnext50_32x4d", num_classes=5),
    "ours": lambda: networks.create("cifar_resnet20", num_classes=5),
    "home-made": HomeMade,
}


@pytest.fixture(params=list(NETWORKS))
def make_network(request):
    def make(seed=0):
        torch.manual_seed(seed)
        network = NETWORKS[request.param]()
        with torch.no_grad():  # timm starts last norms at zero, which would hide every branch
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.uniform_(-0.5, 0.5)
        return network

    return make


@pytest.fixture
def home_made():
    torch.manual_seed(0)
    return HomeMade()


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
