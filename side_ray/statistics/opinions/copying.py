"""The data-copying test C_T of Meehan, Chaudhuri & Dasgupta, "A Non-Parametric Test to Detect Data-Copying in Generative Models"
(AISTATS 2020, arXiv 2004.05675)."""

import math
from typing import Any

import numpy as np
from scipy import stats

MORE_THAN = 20
"""A cell counts if more samples than this fall into it, the τ = 20/m of the authors' experiments."""


def copying(
    samples: np.ndarray, sample_cells: np.ndarray, unseen: np.ndarray, unseen_cells: np.ndarray
) -> dict[str, Any] | None:
    """C_T: within each cell, whether samples are nearer to the training set than unseen images are; far below 0 = copies.

    C_T = Σ P(π)·Z(π) / Σ P(π) over the cells π with enough samples. P(π) is the share of unseen images in the cell, and
    Z = (U − nm/2) / √(nm(n + m + 1)/12) with Mann and Whitney's U, the number of pairs in which the sample is the farther one
    (ties count half). Where no cell has enough samples, all of them are one cell.

    Args:
        samples: float64 [m], distance from each sample to its nearest training image.
        sample_cells: int64 [m], the cell of that training image.
        unseen: float64 [n], the same of images that the model never saw.
        unseen_cells: int64 [n].

    Returns:
        `z` (C_T), `cells` that count, and the `samples` and `unseen` images in them; None with too few samples, or without
        unseen images.
    """
    if samples.size <= MORE_THAN or not unseen.size:
        return None
    many, counts = np.unique(sample_cells, return_counts=True)
    cells = np.intersect1d(many[counts > MORE_THAN], unseen_cells)
    if not cells.size:
        cells, sample_cells, unseen_cells = np.zeros(1), np.zeros(samples.size), np.zeros(unseen.size)
    pairs = [(samples[sample_cells == cell], unseen[unseen_cells == cell]) for cell in cells]
    weights = np.array([test.size for _, test in pairs], float)
    scores = np.array([_z(own, test) for own, test in pairs])
    return {
        "z": float(weights @ scores / weights.sum()),
        "cells": len(pairs),
        "samples": sum(own.size for own, _ in pairs),
        "unseen": sum(test.size for _, test in pairs),
    }


def _z(samples: np.ndarray, unseen: np.ndarray) -> float:
    m, n = samples.size, unseen.size
    ranks = stats.rankdata(np.concatenate([samples, unseen]))[:m]
    u = float(ranks.sum()) - m * (m + 1) / 2
    return (u - m * n / 2) / math.sqrt(m * n * (m + n + 1) / 12)
