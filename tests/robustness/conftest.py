import pytest
from lightning_fabric import Fabric

from timestepper import data


@pytest.fixture
def fabric():
    return Fabric(accelerator="cpu", devices=1)


@pytest.fixture(scope="session")
def digits():
    return data.load("digits")
