"""Classifier-free guidance (Ho & Salimans 2022): ẑ = ẑ_null + s·(ẑ_c − ẑ_null), and ε̂ likewise.

It is taken in ẑ₀, which is defined where α = 0. ẑ₀ is linear in what the network outputs, so it is the same in ε, v or the
velocity. s = 1 is the conditional model, s = 0 the unconditional one, as diffusers' `guidance_scale`.
"""

from dataclasses import dataclass

import torch

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class FreeGuidance:
    """Classifier-free guidance of a batch.

    The model is evaluated twice, each time on the batch, not once on a batch of twice the size: memory stays that of plain
    sampling, and the conditional half is the same to the last bit.

    Args:
        null: what stands for no condition in each row, of the type that the model's condition has: classes int64 [B], or
            conditions of prompts float32 [B, L, D].
        scale: s.
    """

    null: torch.Tensor
    scale: float

    def __call__(self, conditional: Pair, unconditional: Pair) -> Pair:
        """(ẑ₀, ε̂), each float32 [B, C, H, W], of those with and without the condition."""
        z0, eps = (
            without + self.scale * (given - without) for given, without in zip(conditional, unconditional, strict=True)
        )
        return z0, eps
