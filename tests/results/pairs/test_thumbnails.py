"""Thumbnails are in the page as long as it stays small, the others can be cut out of sheets."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from side_ray.results.pairs import thumbnails
from side_ray.results.pairs.thumbnails import Thumbnails, moved, small


def opened(found: str | list[int], sheets: list[np.ndarray], cell: int) -> np.ndarray:
    if isinstance(found, str):
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(found.partition(",")[2]))))
    number, column, row, width, height = found
    return sheets[number][row * cell : row * cell + height, column * cell : column * cell + width]


def read(files: dict[str, bytes], kind: str) -> list[np.ndarray]:
    assert sorted(files) == [f"pairs/{number:03d}.{kind}" for number in range(len(files))]
    return [np.asarray(Image.open(io.BytesIO(files[name]))) for name in sorted(files)]


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 20, 3)])
def test_small_images_stay_as_they_are_in_the_page_and_in_sheets(monkeypatch, shape):
    monkeypatch.setattr(thumbnails, "MOST_BYTES", 20_000)
    images = np.random.default_rng(0).integers(0, 256, (600, *shape), dtype=np.uint8)
    files: dict[str, bytes] = {}
    made = Thumbnails(files.__setitem__, max(shape[:2]))
    found = [made.add(small(image)) for image in images]
    told = made.finish()
    assert told == {"folder": "pairs", "kind": "png", "cell": max(shape[:2])}
    inside = sum(isinstance(each, str) for each in found)
    assert all(isinstance(each, str) for each in found[:inside])
    assert sum(map(len, found[:inside])) < 20_000 + len(found[0]) * 2
    assert len(files) == -(-(600 - inside) // 256)
    sheets = read(files, "png")
    for image, each in zip(images, found, strict=True):
        assert np.array_equal(opened(each, sheets, told["cell"]), image[:, :, 0] if shape[2] == 1 else image)


def test_large_images_are_shrunk_and_do_not_run_into_each_other(monkeypatch):
    monkeypatch.setattr(thumbnails, "MOST_BYTES", 0)
    black, white = np.zeros((300, 200, 3), np.uint8), np.full((300, 200, 3), 255, np.uint8)
    files: dict[str, bytes] = {}
    made = Thumbnails(files.__setitem__, 300)
    found = [made.add(small(image)) for image in [black, white] * 20]
    told = made.finish()
    assert told["kind"] == "jpg"
    assert found[17] == [0, 1, 1, 64, 96]
    sheets = read(files, "jpg")
    for place, each in enumerate(found):
        assert np.ptp(opened(each, sheets, told["cell"])) == 0, place
        assert opened(each, sheets, told["cell"])[0, 0, 0] == 255 * (place % 2)


@pytest.mark.long
def test_five_thousand_pairs_leave_the_page_below_15_mb():
    """The first are noise, which compresses worst."""
    noise = small(np.random.default_rng(0).integers(0, 256, (256, 256, 1), dtype=np.uint8))
    files: dict[str, bytes] = {}
    made = Thumbnails(files.__setitem__, 256)
    found = [made.add(noise if number < 2000 else np.zeros_like(noise)) for number in range(15_000)]
    text = json.dumps({"images": found, "sheets": made.finish()})
    assert len(text) < 9 * 2**20
    places = [tuple(each) for each in found if isinstance(each, list)]
    assert len(set(places)) == len(places) > 13_000
    assert len(files) <= 15_000 // 256 + 1


def test_without_many_there_is_no_folder():
    made = Thumbnails(lambda name, data: pytest.fail(name), 8)
    assert made.add(np.zeros((8, 8, 1), np.uint8)).startswith("data:image/png")
    assert made.finish() is None


def test_a_copy_of_the_page_finds_the_folder():
    page = json.dumps({"file": '"folder":"pairs"', "sheets": {"folder": "pairs"}}, separators=(",", ":"))
    assert json.loads(moved(page, "report/0123")) == {
        "file": '"folder":"pairs"',
        "sheets": {"folder": "report/0123/pairs"},
    }
