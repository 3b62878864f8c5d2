"""Stored features are read from the files that hold them, not from all."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from side_ray.errors import Damaged
from side_ray.runs.dataset import PLAN, PartFeatures, SplitShards, StoredFeatures, feature_columns
from side_ray.runs.run import Artifact
from side_ray.sources.select import SPLITS
from side_ray.stages.score import Scorer, ScoringJob
from side_ray.storage import open_store


@pytest.mark.parametrize("planned", [True, False])
def test_shards_of_stored_features_are_read_from_their_own_files(tmp_path, monkeypatch, planned):
    rng, store = np.random.default_rng(0), open_store(str(tmp_path))
    sizes = {"member": 90, "calibration": 50, "holdout": 40}
    rows = [(split, number) for split, size in sizes.items() for number in range(size)]
    # Images of all splits lie in one file, in ascending order of their ids.
    order = sorted(rows, key=lambda row: (row[1] / sizes[row[0]], row[0]))
    features = {row: rng.standard_normal(3).astype(np.float32) for row in rows}
    images, prepared, plan = PartFeatures(store, "features/a", "a", 20, len(rows)), Artifact(store, "prepare/a"), []
    for part in range(9):
        held = order[20 * part : 20 * part + 20]
        columns = {"split": [split for split, _ in held], "id": [number for _, number in held]}
        images.write(part, pa.table({**columns, **feature_columns(np.stack([features[row] for row in held]))}))
        plan.append(pa.table({**columns, "part": np.full(20, part, np.int32)}))
    if planned:
        prepared.write_table(PLAN, pa.concat_tables(plan))
    stored, reads = StoredFeatures(images, 9, {}, prepared), []
    real = PartFeatures.read
    monkeypatch.setattr(PartFeatures, "read", lambda self, part: reads.append(part) or real(self, part))
    for split, size in sizes.items():
        reads.clear()
        scorer = SimpleNamespace(spec=SimpleNamespace(stored=stored, flips=False, sizes=sizes))
        own = SplitShards(store, "prepare/a", "a", 10, split=split)
        job = ScoringJob(own, -(-size // 10), own, SPLITS, neighborhood=True)
        for shard in range(job.shards):
            ids, found = Scorer._queries(scorer, job, shard)
            assert ids.to_pylist() == list(range(10 * shard, min(10 * shard + 10, size)))
            assert (found == np.stack([features[split, number] for number in ids.to_pylist()])).all()
        # A file at the end of one shard is read for the next one too.
        assert len(reads) <= 9 + job.shards if planned else len(reads) == 9 * job.shards
    spread = np.array([0, 44, 89])
    reads.clear()
    assert (stored.read("member", spread) == np.stack([features["member", each] for each in spread.tolist()])).all()
    assert len(reads) == (3 if planned else 9)
    with pytest.raises(Damaged, match="do not hold the features of every image"):
        stored.read("holdout", np.array([39, 40]))
