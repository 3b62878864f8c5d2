"""Search actors leave a GPU to the scorers."""

import pytest
import torch

from side_ray.config.file import load_config
from side_ray.execution.search_actors import reserved, uses_gpu


@pytest.mark.parametrize(
    ("gpus", "parts", "nodes", "expected"),
    [
        (1, 2, [1], 0),
        (1, 2, [2], 0),
        (1, 2, [2, 1], 1),
        (0.5, 2, [1], 0),
        (0.5, 2, [1, 1], 0.5),
        (0.6, 2, [2], 0),
        (2, 2, [3, 3], 0),
        (2, 2, [4, 2], 2),
        (0, 2, [8], 0),
    ],
)
def test_search_actors_reserve_gpus_only_if_a_scorer_still_fits(gpus, parts, nodes, expected):
    assert reserved(gpus, parts, nodes) == expected


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_a_search_uses_a_gpu_where_torch_can(engine, monkeypatch):
    config = load_config("jobs/configs/digits.yaml", [f"score.engine={engine}"])
    assert uses_gpu(config) == torch.backends.cuda.is_built()
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    assert uses_gpu(config)
