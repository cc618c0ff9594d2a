"""Independent references: whole matrices, written out column by column or by autograd."""

import torch


def matrix(function, example):
    """Write out the linear part of a function, column by column."""
    constant = function(torch.zeros_like(example)).flatten()
    columns = torch.eye(example.numel()).view(-1, *example.shape)
    return torch.stack([function(column).flatten() - constant for column in columns], 1)


def jacobian(function, point):
    """Write out the Jacobian."""
    full = torch.autograd.functional.jacobian(function, point)
    return full.reshape(-1, point.numel())


def norm(array):
    return torch.linalg.matrix_norm(array, 2).item()
