import pytest
import timm
import torch
import torchvision
from torch import nn


class Block(nn.Module):
    """A home-made pre-addition block, so that the suite does not depend on libraries alone."""

    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x):
        return (x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()


class HomeMade(nn.Module):
    def __init__(self, width=8, depth=3):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.layer1 = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.fc = nn.Linear(width, 5)

    def forward(self, x):
        return self.fc(self.layer1(self.conv(x)).mean((2, 3)))


NETWORKS = {
    "torchvision": lambda: torchvision.models.resnet18(num_classes=5),
    "torchvision-bottleneck": lambda: torchvision.models.resnet50(num_classes=5),
    "timm": lambda: timm.create_model("resnet18", num_classes=5),
    "timm-resnext": lambda: timm.create_model("resnext50_32x4d", num_classes=5),
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
