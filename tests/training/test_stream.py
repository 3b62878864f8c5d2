"""Streamed members: every image once per epoch, in an order that does not depend on the number of workers or on restarts."""

from itertools import islice

import numpy as np
import pytest
import torch

from side_ray.algorithm import run_until
from side_ray.execution.progress import Reporter
from side_ray.runs.dataset import split_table
from side_ray.runs.run import Artifact
from side_ray.sources.published.digits import load_digits
from side_ray.storage import open_store
from side_ray.storage.sealed import write_table
from side_ray.training.data import Cached, open_members
from side_ray.training.stream import Order, Streamed, needed
from tests.audits import tiny_config

CPU = torch.device("cpu")


def pairs(part: np.ndarray, row: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(part.tolist(), row.tolist(), strict=True))


@pytest.fixture
def prepared(tmp_path) -> Artifact:
    """50 digits in five parts, some of which also contain other splits."""
    artifact, digits = Artifact(open_store(str(tmp_path)), "prepare/x"), load_digits()
    members, unseen = split_table(digits, np.arange(50), "member"), split_table(digits, np.arange(50, 60), "holdout")
    for part, (start, stop) in enumerate([(0, 10), (10, 12), (12, 30), (30, 41), (41, 50)]):
        extra = [unseen.slice(2 * part, 2)] if part % 2 else []
        write_table(
            artifact.store, f"{artifact.key}/part-{part:06d}.parquet", members.slice(start, stop - start), *extra
        )
    artifact.finish(member=50, shape=[8, 8, 1])
    return artifact


def test_an_epoch_holds_every_image_once_and_differs_from_the_next():
    order = Order([10, 2, 18, 11, 9], 2, seed=4)
    epochs = [[pair for part, row in order.epoch(e) for pair in pairs(part, row)] for e in (0, 1)]
    everything = sorted((part, row) for part, size in enumerate(order.sizes.tolist()) for row in range(size))
    assert [sorted(epoch) for epoch in epochs] == [everything, everything]
    assert epochs[0] != epochs[1]
    assert [len(set(part.tolist())) for part, _ in order.epoch(0)] == [2, 2, 1]


def test_workers_share_the_batches_and_a_stop_changes_nothing():
    order = Order([10, 2, 18, 11, 9], 2, seed=4)

    def images(step: int, rows: slice, count: int) -> list[tuple[int, int]]:
        return list(
            islice((pair for _, part, row in needed(order, step, 16, rows) for pair in pairs(part, row)), count)
        )

    whole = images(0, slice(0, 16), 16 * 10)
    assert images(7, slice(0, 16), 48) == whole[7 * 16 :]
    left, right = images(0, slice(0, 5), 50), images(0, slice(5, 16), 110)
    for step in range(10):
        assert left[5 * step : 5 * step + 5] + right[11 * step : 11 * step + 11] == whole[16 * step : 16 * step + 16]


def test_streamed_images_are_the_cached_ones(prepared, ray_session):
    cached = open_members(prepared, 50 * 64, 16, None, 0, CPU)
    streamed = open_members(prepared, 50 * 64 - 1, 16, None, 0, CPU)
    assert isinstance(cached, Cached)
    assert isinstance(streamed, Streamed)
    assert (streamed.count, streamed.shape) == (cached.count, cached.shape) == (50, (1, 8, 8))
    assert torch.equal(streamed.labels, cached.labels)
    seen = []
    for step in range(7):
        images, ids = streamed.draw(step, slice(0, 16))
        assert torch.equal(images, cached.pixels[ids].float() / 127.5 - 1)
        seen += ids.tolist()
    assert sorted(seen[:50]) == sorted(seen[50:100]) == list(range(50))
    images, ids = streamed.draw(5, slice(3, 9))
    assert ids.tolist() == seen[5 * 16 + 3 : 5 * 16 + 9]
    streamed.close()
    assert [piece.ids.tolist() for piece in streamed.pieces()] == [list(range(50))]


@pytest.mark.slow
def test_a_dpm_and_the_classifiers_train_on_streamed_members(tmp_path, ray_session):
    changes = {"cluster__train_cache_gb": 1e-6, "extract__methods": ["random", "ti"], "dpm__steps": 40}
    artifacts = run_until("train_surrogate", tiny_config(tmp_path / "run", **changes), Reporter()).artifacts
    assert artifacts.dpm.info()["steps"] == 40
    assert artifacts.surrogate.child("ol_ti").info()["classes"] == 10
