"""Spectral norms and eigenvalues of operators that are known by their products alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigs, svds
from torch import Tensor

from timestepper.errors import StabilityError, first_line

Function = Callable[[Tensor], Tensor]
Vector = NDArray[np.float64]

FEW = 8
"""ARPACK wants more dimensions than it finds values: operators up to this size are written out."""
MOST_FEW = 40
"""The most different eigenvalues that are looked for where ARPACK finds too few."""
RESTARTS = 100
"""The most restarts of an iteration; values close to each other may need very many."""


class Jacobian:
    """The Jacobian of a function at a point, known by its products; its own matrix if linear.

    Args:
        function: twice differentiable, from a tensor to a tensor.
        point: where.
        tolerance: of the residuals of its singular and eigenvectors, relatively; by default what
            the rounding of the point's dtype allows. The error of a singular value is of the order
            of its square over the gap to the next one, and never larger than it.

    Attributes:
        shape: numbers that come out and go in.

    Raises:
        StabilityError: here or later, the function is not twice differentiable.
    """

    def __init__(self, function: Function, point: Tensor, tolerance: float | None = None) -> None:
        exact = 1e-8 if point.dtype == torch.float64 else 1e-4
        self.tolerance = exact if tolerance is None else tolerance
        with torch.enable_grad():
            self._input = point.detach().clone().requires_grad_()
            self._output = function(self._input)
            # Jᵀ·w is linear in w: its derivative with respect to w gives J·v. Forward mode would
            # compute the function anew for each v.
            self._cotangent = torch.zeros_like(self._output).requires_grad_()
            self._backward = self._derive(self._output, self._input, self._cotangent, again=True)
        self.shape = self._output.numel(), point.numel()

    def forward_product(self, vector: Vector) -> Vector:
        """Multiply: J·v, float64 ``(outputs,)``."""
        return self._product(self._backward, self._cotangent, vector)

    def backward_product(self, vector: Vector) -> Vector:
        """Multiply by the transpose: Jᵀ·v, float64 ``(inputs,)``."""
        return self._product(self._output, self._input, vector)

    def _product(self, of: Tensor, by: Tensor, vector: Vector) -> Vector:
        """Multiply by a derivative.

        The vector's largest number is 1 meanwhile: it may be a product too, and float32 ends at
        the square of 1.8e19.
        """
        scale = np.abs(vector).max() or 1.0
        scaled = torch.from_numpy(np.ascontiguousarray(vector / scale)).to(self._input)
        product = self._derive(of, by, scaled).detach().reshape(-1).double().cpu().numpy()
        return np.asarray(scale * product)

    @staticmethod
    def _derive(of: Tensor, by: Tensor, vector: Tensor, *, again: bool = False) -> Tensor:
        """Differentiate ⟨of, vector⟩; zeros where nothing depends on ``by``."""
        if not of.requires_grad:
            return torch.zeros_like(by)
        try:
            (product,) = torch.autograd.grad(
                of,
                by,
                vector.view_as(of),
                retain_graph=True,
                create_graph=again,
                materialize_grads=True,
            )
        except RuntimeError as error:
            # Some operations can be differentiated once only.
            reason = first_line(error)
            raise StabilityError(f"the Jacobian can't be computed: {reason}") from error
        return product

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
        anywhere = self._guess(inputs)
        if not self.forward_product(anywhere).any():
            return 0.0, anywhere  # ARPACK stumbles over zero.
        operator = self._linear_operator()
        try:
            _, values, vectors = self._largest(operator, guess, 20)
        except ArpackNoConvergence:
            # Dense spectra need more vectors.
            try:
                _, values, vectors = self._largest(operator, guess, 100)
            except ArpackNoConvergence:
                raise StabilityError(
                    f"the spectral norm of an operator of size {outputs} × {inputs} did not "
                    f"converge to {self.tolerance:g}: its largest singular values lie too close"
                ) from None
        except ArpackError:
            # It wants more than a few different singular values; the identity has a single one.
            basis, projected = self._invariant_space(operator.H @ operator)
            if not np.isfinite(projected).all():
                raise StabilityError("an operator's products are not finite") from None
            squares, coordinates = np.linalg.eigh(projected)
            return math.sqrt(max(0.0, squares[-1])), basis @ coordinates[:, -1]
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
                    ncv=min(inputs, max(MOST_FEW, 4 * count)),
                    maxiter=RESTARTS,
                    return_eigenvectors=False,
                )
            except ArpackNoConvergence as stop:
                found = stop.eigenvalues
            except ArpackError:
                found = np.linalg.eigvals(self._invariant_space(operator)[1])
        order = np.argsort(-np.abs(found), kind="stable")
        largest: NDArray[np.complex128] = found[order][:count].astype(np.complex128)
        return largest

    def _largest(self, operator: LinearOperator, guess: Vector, vectors: int) -> Any:
        return svds(
            operator,
            1,
            ncv=min(vectors, min(self.shape) - 1),
            v0=guess,
            tol=self.tolerance,
            maxiter=RESTARTS,
            solver="arpack",
        )

    def _linear_operator(self) -> LinearOperator:
        return LinearOperator(
            self.shape,
            matvec=self.forward_product,
            rmatvec=self.backward_product,
            dtype=np.float64,
        )

    def _invariant_space(self, operator: LinearOperator) -> tuple[Vector, Vector]:
        """Span the space that an operator with few different eigenvalues maps a vector into.

        Returns:
            An orthonormal basis ``(size, dimensions)`` and the operator within it.
        """
        basis = self._guess(self.shape[1])[:, None]
        basis /= np.linalg.norm(basis)
        while basis.shape[1] < MOST_FEW:
            image = operator.matvec(basis[:, -1])
            rest = image - basis @ (basis.T @ image)
            rest -= basis @ (basis.T @ rest)  # Rounding leaves something the first time.
            if np.linalg.norm(rest) <= self.tolerance * np.linalg.norm(image):
                break
            basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
        return basis, basis.T @ operator.matmat(basis)

    def _written_out(self) -> NDArray[np.float64]:
        """Write the matrix out along its shorter side."""
        outputs, inputs = self.shape
        if inputs < outputs:
            return np.stack([self.forward_product(row) for row in np.eye(inputs)], 1)
        return np.stack([self.backward_product(row) for row in np.eye(outputs)])

    @staticmethod
    def _guess(size: int) -> Vector:
        return np.random.default_rng(0).standard_normal(size)
