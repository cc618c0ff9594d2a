"""Exported graphs of a folded network have exactly the plain network's operations."""

import pytest
import torch

from timestepper import attach, fold, networks


def program(network, images):
    """Names of the operations of torch.export's program, in order."""
    nodes = torch.export.export(network, (images,)).graph.nodes
    return [str(node.target) for node in nodes if node.op == "call_function"]


def onnx_graph(network, images):
    """Types of the operations of the ONNX graph, in order."""
    found = torch.onnx.export(network, (images,), dynamo=True, verbose=False)
    return [node.op_type for node in found.model_proto.graph.node]


@pytest.mark.parametrize("operations", [program, onnx_graph])
@pytest.mark.parametrize("name", ["cifar_resnet8", "timm/legacy_seresnet18"])
def test_operations_are_the_plain_networks(name, operations):
    images = torch.randn(2, 3, 32, 32)
    network = networks.create(name, num_classes=10).eval()
    plain = operations(network, images)
    attach(network, example_input=images)
    if operations is program:
        assert len(program(network, images)) > len(plain)
    assert operations(fold(network), images) == plain
