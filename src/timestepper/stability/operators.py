"""Spectral norms and eigenvalues of operators that are known by their products alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs, svds
from torch import Tensor
from torch.func import jvp

Function = Callable[[Tensor], Tensor]
Vector = NDArray[np.float64]

FEW = 8
"""ARPACK wants more dimensions than it finds values: operators up to this size are written out."""
RESTARTS = 100
"""The most restarts in search of eigenvalues; those close to each other may need very many."""


class Jacobian:
    """The Jacobian of a function at a point, known by its products; its own matrix if linear.

    Args:
        function: differentiable, from a tensor to a tensor.
        point: where.

    Attributes:
        shape: numbers that come out and go in.
    """

    def __init__(self, function: Function, point: Tensor) -> None:
        self.function = function
        self.point = point.detach()
        with torch.enable_grad():
            self._input = self.point.clone().requires_grad_()
            self._output = function(self._input)
        self.shape = self._output.numel(), self.point.numel()

    @property
    def tolerance(self) -> float:
        """What its values are computed to, relatively."""
        return 1e-10 if self.point.dtype == torch.float64 else 1e-6

    def forward_product(self, vector: Vector) -> Vector:
        """Multiply: J·v, float64 ``(outputs,)``."""
        tangent = self._tensor(vector).view_as(self.point)
        _, product = jvp(self.function, (self.point,), (tangent,))
        return self._array(product)

    def backward_product(self, vector: Vector) -> Vector:
        """Multiply by the transpose: Jᵀ·v, float64 ``(inputs,)``."""
        if not self._output.requires_grad:
            return np.zeros(self.shape[1])
        cotangent = self._tensor(vector).view_as(self._output)
        (product,) = torch.autograd.grad(self._output, self._input, cotangent, retain_graph=True)
        return self._array(product)

    def spectral_norm(self) -> float:
        """Compute ‖J‖₂ by Lanczos iterations."""
        return self.leading_direction()[0]

    def leading_direction(self) -> tuple[float, Vector]:
        """Find the direction that grows most.

        Returns:
            ‖J‖₂ and the right singular vector that belongs to it, ``(inputs,)``.
        """
        outputs, inputs = self.shape
        if min(self.shape) <= FEW:
            _, values, vectors = np.linalg.svd(self._written_out(), full_matrices=False)
            return float(values[0]), vectors[0]
        guess = self._guess(min(self.shape))
        if not self.forward_product(self._guess(inputs)).any():
            return 0.0, self._guess(inputs)  # ARPACK stumbles over zero.
        _, values, vectors = svds(
            self._linear_operator(), k=1, v0=guess, tol=self.tolerance, solver="arpack"
        )
        return float(values[0]), vectors[0]

    def eigenvalues(self, count: int, *, shift: float = 0.0) -> NDArray[np.complex128]:
        """Compute the eigenvalues of largest modulus of shift·I + J by Arnoldi iterations.

        Args:
            count: how many; fewer come back where the iterations did not converge, or the
                operator is smaller.
            shift: what is added to the diagonal: 1 for an Euler step (paper Eq. 4).

        Returns:
            Eigenvalues by falling modulus.
        """
        outputs, inputs = self.shape
        assert outputs == inputs
        if inputs <= count + FEW:
            found = np.linalg.eigvals(self._written_out() + shift * np.eye(inputs))
        else:
            operator = LinearOperator(
                (inputs, inputs),
                matvec=lambda v: shift * v.ravel() + self.forward_product(v),
                dtype=np.float64,
            )
            try:
                found = eigs(
                    operator,
                    k=count,
                    which="LM",
                    v0=self._guess(inputs),
                    tol=self.tolerance,
                    maxiter=RESTARTS,
                    return_eigenvectors=False,
                )
            except ArpackNoConvergence as stop:
                found = stop.eigenvalues
        order = np.argsort(-np.abs(found), kind="stable")
        largest: NDArray[np.complex128] = found[order][:count].astype(np.complex128)
        return largest

    def _linear_operator(self) -> LinearOperator:
        return LinearOperator(
            self.shape,
            matvec=self.forward_product,
            rmatvec=self.backward_product,
            dtype=np.float64,
        )

    def _written_out(self) -> NDArray[np.float64]:
        """Write the matrix out along its shorter side."""
        outputs, inputs = self.shape
        if inputs < outputs:
            return np.stack([self.forward_product(row) for row in np.eye(inputs)], 1)
        return np.stack([self.backward_product(row) for row in np.eye(outputs)])

    def _tensor(self, vector: Vector) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(vector)).to(self.point)

    @staticmethod
    def _array(tensor: Tensor) -> Vector:
        array: Vector = tensor.detach().reshape(-1).double().cpu().numpy()
        return array

    @staticmethod
    def _guess(size: int) -> Vector:
        return np.random.default_rng(0).standard_normal(size)
