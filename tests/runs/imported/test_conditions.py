"""What the conditions of samples are drawn from, in the run."""

import numpy as np
import pyarrow as pa
import pytest

from side_ray.config import DpmSection
from side_ray.errors import UserError
from side_ray.images import ImageSet
from side_ray.runs.dataset import split_table
from side_ray.runs.imported.conditions import read_conditioning, write_conditions
from side_ray.runs.run import Artifact, Run
from side_ray.storage.local import LocalStore
from side_ray.storage.sealed import write_table


def prepared(tmp_path, labels: list[int] | None) -> Artifact:
    """Four members and two holdout images."""
    artifact = Run(LocalStore(tmp_path)).artifact("prepare", 1)
    own = None if labels is None else np.array(labels)
    images = ImageSet(np.arange(6), np.zeros((6, 2, 2, 1), np.uint8), own)
    tables = [split_table(images, np.arange(4), "member"), split_table(images, np.arange(4, 6), "holdout")]
    write_table(artifact.store, f"{artifact.key}/part-000000.parquet", pa.concat_tables(tables))
    artifact.finish(parts=1)
    return artifact


def test_classes_come_in_the_proportions_of_the_members_labels(tmp_path):
    dpm = DpmSection(path="model", classes="labels", null_class=3, guidance_scale=2.0)
    target = Artifact(LocalStore(tmp_path), "condition/0")
    write_conditions(target, prepared(tmp_path, [2, 0, -1, 2, 1, 1]), dpm)
    assert target.done
    found = read_conditioning(dpm, target)
    assert (found.counts, found.null_class, found.scale) == ((1, 0, 2), 3, 2.0)


def test_without_labels_there_are_no_proportions(tmp_path):
    with pytest.raises(UserError, match=r"dpm\.classes: labels, but the training images have none"):
        write_conditions(Artifact(LocalStore(tmp_path), "condition/0"), prepared(tmp_path, None), DpmSection())
