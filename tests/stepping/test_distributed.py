"""Attached networks in several processes, and sharded."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from home_made import HomeMade
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import timestepper
from timestepper.errors import AttachedError


def worker(rank, rendezvous, network, images, results):
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    try:
        parallel = DistributedDataParallel(network)
        for _ in range(2):  # gradients of a second pass after the first was used
            parallel.zero_grad()
            parallel(images[rank::2]).square().mean().backward()
        if rank == 0:
            torch.save({n: p.grad for n, p in network.named_parameters()}, results)
    finally:
        dist.destroy_process_group()


def test_two_processes_give_the_gradients_of_one(tmp_path):
    torch.manual_seed(0)
    network = timestepper.attach(HomeMade().double().eval())
    images = torch.randn(8, 3, 16, 16, dtype=torch.float64)
    reference = copy.deepcopy(network)
    reference(images).square().mean().backward()
    rendezvous = f"file://{tmp_path / 'rendezvous'}"
    mp.spawn(worker, (rendezvous, network, images, tmp_path / "gradients.pt"), nprocs=2)
    gradients = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-10, atol=1e-14)


@pytest.fixture
def mesh(tmp_path):
    rendezvous = f"file://{tmp_path / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("controller", ["lstm", "lstm+", "2fc", "indp", 0.5])
def test_only_whole_networks_are_sharded(home_made, images, mesh, controller):
    network = timestepper.attach(home_made, controller).eval()
    expected = network(images)
    whole = fully_shard(copy.deepcopy(network), mesh=mesh)
    torch.testing.assert_close(whole(images), expected)
    torch.testing.assert_close(timestepper.fold(whole)(images), expected)
    for block in network.layer1:
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    with pytest.raises(AttachedError, match="'layer1' were sharded apart from their controller"):
        network(images)
