"""Training images and queries as a device multiplies them, and how far a product may be from the true one.

A row r is multiplied as r̂ = codes / scale. From ⟨q, x⟩ − ⟨q̂, x̂⟩ = ⟨q, x − x̂⟩ + ⟨q − q̂, x̂⟩ the rounding of the rows costs at
most ‖q‖·‖x − x̂‖ + ‖q − q̂‖·‖x̂‖, with lengths that are measured in float64. The summation costs at most γ_m·‖q̂‖·‖x̂‖,
γ_m = m·u / (1 − m·u) (Higham 2002, Eq. 3.5).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from side_ray.search.float32 import gamma
from side_ray.search.neighbors import Metric

Precision = Literal["int8", "fp16", "bf16", "float32"]
"""`int8`: pixel values, exact. `fp16`, `bf16`: rounded, summed in float32. `float32`: nothing is rounded."""
DTYPES = {"int8": torch.int8, "fp16": torch.float16, "bf16": torch.bfloat16, "float32": torch.float32}
ROUNDOFF = {torch.float16: 2.0**-22, torch.bfloat16: 2.0**-22, torch.float32: 2.0**-24}
"""u of a sum of products. Tensor cores align the running sum and at least 4 products with the largest of them and cut off below
2⁻²³ of it (Fasi, Higham, Mikaitis, Pranesh 2021): with the rounding of the sum at most 1.5·2⁻²³ for each product."""
ALIGNED = 16
"""Columns of codes are padded to a multiple of this, as int8 products on CUDA require."""
SHIFT = 128
LARGEST_CODE = 2.0**11
"""Half precision holds values of up to 65504; their products are summed in float32."""
SLACK = 1 + 2.0**-40
"""For the roundings of the float64 arithmetic of the bounds themselves."""


class Codes(NamedTuple):
    """N rows as they are multiplied."""

    codes: torch.Tensor
    """[N, D], D ≥ d a multiple of `ALIGNED`."""
    scale: float
    """A power of two."""
    squares: torch.Tensor
    """float64 [N], ‖r‖²."""
    lost: torch.Tensor
    """float64 [N], ‖r − r̂‖."""


@dataclass(frozen=True)
class Encoder:
    """How rows float32 [N, d] of one index become codes.

    center: float32 [d] for l2, subtracted from every row, which changes no distance; None for ip.
    """

    precision: Precision
    center: torch.Tensor | None

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.precision]

    @property
    def score_dtype(self) -> torch.dtype:
        """Of products and scores."""
        return torch.int32 if self.precision == "int8" else torch.float32

    def scale_for(self, largest: float) -> float:
        """The scale for (centred) values of at most `largest`."""
        if self.precision != "fp16" or largest == 0:
            return 1.0
        return 2.0 ** torch.floor(torch.log2(torch.tensor(LARGEST_CODE / largest, dtype=torch.float64))).item()

    def centred(self, rows: torch.Tensor) -> torch.Tensor:
        return rows if self.center is None else rows - self.center

    def encode(self, rows: torch.Tensor, scale: float | None = None) -> Codes:
        """Codes of rows float32 [N, d]; with a scale of their own unless one is given."""
        centred = self.centred(rows)
        if scale is None:
            scale = self.scale_for(float(centred.abs().amax())) if centred.numel() else 1.0
        codes = centred.new_zeros((len(rows), -(-rows.shape[1] // ALIGNED) * ALIGNED), dtype=self.dtype)
        codes[:, : rows.shape[1]] = centred if scale == 1 else centred * scale
        exact = centred.double()
        squares = exact.square().sum(dim=1)
        if self.precision in ("int8", "float32"):
            return Codes(codes, scale, squares, torch.zeros_like(squares))
        exact -= codes[:, : rows.shape[1]].double().div_(scale)
        return Codes(codes, scale, squares, exact.square_().sum(dim=1).sqrt_() * SLACK)

    def error(self, queries: Codes, longest: float, most_lost: float, metric: Metric) -> torch.Tensor:
        """float64 [q], how far a score may be from the true one, whatever the training image.

        Args:
            longest: the largest length of a training image.
            most_lost: the largest of what the codes of one lack.
        """
        if self.precision == "int8":
            return torch.zeros_like(queries.squares)
        d, u = queries.codes.shape[1], ROUNDOFF[self.dtype]
        lengths = queries.squares.sqrt()
        rounded, train = lengths + queries.lost, longest + most_lost
        lost = lengths * most_lost + queries.lost * train
        if metric == "ip":
            return (lost + gamma(d + 1, u) * rounded * train) * SLACK
        # Eight more roundings: centring both sides, the norms, the subtraction; the query's own norm turns scores to distances.
        summed = gamma(d + 8, u) * (2 * rounded * train + train**2)
        return (2 * lost + summed + gamma(8) * queries.squares) * SLACK


def multiply(queries: torch.Tensor, train: torch.Tensor) -> torch.Tensor:
    """Products of codes [q, D] and [t, D]: int32 of int8, else float32 [q, t]."""
    if queries.dtype == torch.int8:
        missing = -len(queries) % 32  # cuBLAS wants more than 16 rows
        padded = torch.nn.functional.pad(queries, (0, 0, 0, missing)) if missing else queries
        return torch._int_mm(padded, train.T)[: len(queries)]
    if queries.is_cuda and queries.dtype != torch.float32:
        return torch.mm(queries, train.T, out_dtype=torch.float32)
    # Exact conversions: the processor then sums the same products in float32.
    return torch.mm(queries.float(), train.float().T)


def are_pixels(rows: torch.Tensor) -> bool:
    """Whether all values are whole numbers 0 … 255, and no score can overflow int32."""
    if 3 * rows.shape[1] * SHIFT**2 >= 2**31:
        return False
    return bool(((rows >= 0) & (rows <= 255) & (rows == rows.round())).all())
