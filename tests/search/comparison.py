"""Searches whose results must be the same with and without a faster kernel: `python comparison.py FILE` saves them."""

import sys

import numpy as np

from side_ray.search import Index, Levels

LEVELS = Levels(np.array([0.3, 0.5, 0.8], np.float32), (("low",), (), ("high",)), True)
DISTANCES = Levels(np.array([-1.5, -1.4, -0.5], np.float32), (("low",), ("mid",), ("high",)), False)


def results(kernel: str | None) -> dict[str, np.ndarray]:
    """Ids, values and counts of a few searches, by name."""
    rng, found = np.random.default_rng(0), {}

    def keep(name: str, *parts: object) -> None:
        found.update(
            {f"{name} {i} {field}": value for i, part in enumerate(parts) for field, value in vars(part).items()}
        )

    for n, d in ((60, 5), (2500, 150)):
        train = rng.integers(0, 256, (n, d)).astype(np.float32)
        train[n // 2 : n // 2 + 10] = train[:10]
        queries = np.clip(train[np.arange(40) % n] + rng.integers(-20, 21, (40, d)), 0, 255).astype(np.float32)
        queries[:5] = train[:5]
        index = Index(train, rng.permutation(n), "l2", engine="torch", threads=2, kernel=kernel)
        nearest, _ = index.search(queries, 20)
        keep(f"l2 {n}", nearest, index.count(queries, DISTANCES, 0.5 * nearest.values.mean(axis=1)))
        rows = rng.standard_normal((n + 40, d))
        rows[n : n + 30] = rows[:30] + 0.2 * rng.standard_normal((30, d))
        rows[n // 2 : n // 2 + 30] = rows[0]  # more images at a level than neighbours are wanted
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        index = Index(rows[:n], rng.permutation(n), "ip", engine="torch", threads=2, kernel=kernel)
        keep(f"ip {n}", *index.search(rows[n:], 20, LEVELS), index.count(rows[n:], LEVELS))
    return found


if __name__ == "__main__":
    np.savez(sys.argv[1], **results(None))
