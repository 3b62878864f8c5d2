"""Search actors leave a GPU to the scorers."""

import tempfile

import pytest
import torch

from bench import memory
from side_ray.config.file import load_config
from side_ray.execution.search_actors import reserved, uses_gpu
from side_ray.similarity import SIMILARITIES


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


@pytest.mark.long
def test_stored_features_are_mapped_not_copied(tmp_path, monkeypatch):
    """40,000 × 512 float32 are 78 MiB; a copy in 8 bits, as the search for CPUs keeps, is a quarter of that."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    SIMILARITIES.register(memory.Vectors.name, memory.Vectors)
    try:
        for rows in (3_000, 40_000):  # the first loads libraries
            memory.write(tmp_path / str(rows), rows)
            found = memory.search(tmp_path / str(rows), rows, 200, 1, 5)
    finally:
        SIMILARITIES.unregister(memory.Vectors.name)
    assert found["mismatches"] == 0
    start, load, search = (found["peaks_mib"][phase] for phase in ("start", "load", "search"))
    assert max(load["RssAnon"], search["RssAnon"]) - start["RssAnon"] < 65
    assert load["VmRSS"] - start["VmRSS"] > 78  # they are all read, from the map
    assert found["resident_mib"] - start["VmRSS"] < 65  # and then not kept
