"""Gray images of 16 bits, from files to the scores: no bit of them is lost."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from side_ray.algorithm import run_until
from side_ray.execution.progress import Reporter
from side_ray.studies.given import given_config
from tests.audits import PAGE_ONLY
from tests.bruteforce import check
from tests.formats import encoded, pictures
from tests.local import without_ray

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("undrawn")]


@pytest.fixture
def images() -> np.ndarray:
    """uint16 [64, 12, 12]; the last two differ only in their low bytes."""
    generator = np.random.default_rng(0)
    deep = pictures(64, (12, 12))[:, :, :, 0].astype(np.uint16) * 256
    deep[-1] = deep[-2]
    return deep + generator.integers(0, 256, deep.shape, dtype=np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_images_that_differ_in_the_low_byte_are_two_and_a_copy_is_found(tmp_path, images, kind, capsys):
    other = pictures(8, (12, 12), seed=1)[:, :, :, 0].astype(np.uint16) * 257
    for folder, many in (("train", images), ("samples", [images[-1], *other])):
        (tmp_path / folder).mkdir()
        for number, image in enumerate(many):
            (tmp_path / folder / f"{number:03d}.{kind.lower()}").write_bytes(encoded(image, kind))
    paths = str(tmp_path / "samples"), str(tmp_path / "train")

    def audited(run: str, *overrides: str) -> Path:
        with without_ray():
            run_until("report", given_config(*paths, None, str(tmp_path / run), [*PAGE_ONLY, *overrides]), Reporter())
        return tmp_path / run

    def rows(pattern: str) -> list[dict]:
        latest = json.loads((tmp_path / "run" / "latest.json").read_text())["scores"]["method=given/lambda=0.0"]
        (part,) = (tmp_path / "run").glob(pattern.format(scores=latest))
        return pq.read_table(part, partitioning=None).to_pylist()

    audited("run", "data.grayscale=true")
    scores, prepared = rows("{scores}/part-*.parquet"), rows("prepare/*/part-*.parquet")
    assert check(tmp_path / "run") == []
    assert scores[0]["best"] == 0
    assert all(row["best"] > 0.1 for row in scores[1:])
    stored = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in prepared]
    assert np.array_equal(np.stack(stored), images)
    # The two are near duplicates, not equal: one group, named by the first.
    (duplicate, *_) = rows("prepare/*/duplicates.parquet")[::-1]
    assert duplicate == {"split": "member", "id": 63, "group": 62, "copy_of": 63}
    assert scores[0]["best_id"] == 62
    assert "RGB keeps 8" not in capsys.readouterr().err
    if kind == "PNG":
        audited("rgb")
        assert "warning: data.grayscale: 000.png has 16 bits, of which RGB keeps 8" in capsys.readouterr().err
