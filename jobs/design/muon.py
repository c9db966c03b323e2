"""Muon (Jordan et al. 2024) in float32.

`torch.optim.Muon` computes in bfloat16. A CPU without instructions for bfloat16 takes 26 times as
long for such a product as in float32, and rounds otherwise than a CPU that has them.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """For matrices alone: Nesterov's momentum, made orthogonal; as `torch.optim.Muon` otherwise."""

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for matrix in group["params"]:
                state, gradient = self.state[matrix], matrix.grad
                buffer = state.setdefault("momentum_buffer", torch.zeros_like(matrix))
                buffer.lerp_(gradient, 1 - MOMENTUM)
                update = orthogonal(gradient.lerp(buffer, MOMENTUM))
                rows, columns = matrix.shape
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix with its singular values near 1 (0.5 to 1.5), by five Newton-Schulz steps."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.T if tall else matrix
    found = found / found.norm().clamp(min=1e-7)
    for _ in range(STEPS):
        gram = found @ found.T
        found = torch.addmm(found, b * gram + c * gram @ gram, found, beta=a)
    return found.T if tall else found
