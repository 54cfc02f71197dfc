"""Muon in float32: momentum, then the nearest orthogonal matrix (Jordan et al. 2024, "Muon"), for the trunk's matrices.

torch.optim.Muon orthogonalises in bfloat16, which a CPU without AMX emulates; like shapes are stacked here, so one
batched product serves all layers. docs/experiments/starter.md has the figures.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Steps every matrix by its orthogonalised momentum, scaled so that learning rates are those of AdamW."""

    def __init__(self, matrices: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        """Take two-dimensional parameters only; `lr` as for AdamW (update rms 0.2, arXiv 2502.16982)."""
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.nn.Parameter]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[matrix.shape].append(matrix)
            for shape, matrices in by_shape.items():
                moved = torch.stack([self._momentum(matrix, group["momentum"]) for matrix in matrices])
                scale = 0.2 * max(shape) ** 0.5 * group["lr"]
                for matrix, direction in zip(matrices, orthogonalised(moved), strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-scale)

    def _momentum(self, matrix: torch.nn.Parameter, momentum: float) -> torch.Tensor:
        state = self.state[matrix]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(matrix)
        state["momentum"].lerp_(matrix.grad, 1 - momentum)  # type: ignore[arg-type]
        return torch.lerp(matrix.grad, state["momentum"], momentum)  # type: ignore[arg-type]


def orthogonalised(matrices_NRC: torch.Tensor) -> torch.Tensor:
    """Return the nearest orthogonal matrix of each, nearly: five Newton-Schulz rounds, singular values in 0.7 to 1.2."""
    a, b, c = _COEFFICIENTS
    tall = matrices_NRC.size(-2) > matrices_NRC.size(-1)
    x = matrices_NRC.mT if tall else matrices_NRC
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ROUNDS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    found: torch.Tensor = x.mT if tall else x
    return found
