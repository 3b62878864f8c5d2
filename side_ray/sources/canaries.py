"""A plan of canaries for models that are trained elsewhere: pairs of images, of which a fair coin chooses one to train on."""

import csv
import io
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np

from side_ray.config import StorageSection
from side_ray.errors import UserError
from side_ray.sources import SOURCES
from side_ray.sources.base import Place
from side_ray.sources.pools import kind_of

COLUMNS = ["pair", "file", "train"]


def read_plan(plan: str) -> list[tuple[int, str, bool]]:
    """The pair, the name, and whether it is to be trained on, of every image of a plan.

    Raises:
        UserError: it is not there, or is no plan.
    """
    try:
        rows = csv.DictReader(io.StringIO(Path(plan).read_text(encoding="utf-8")))
        found = [(int(row["pair"]), row["file"], row["train"] == "1") for row in rows]
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError, csv.Error):
        found = []
    if not found:
        raise UserError(f"{plan} is no plan of side-ray canaries; give the CSV that it wrote", "privacy.canaries")
    return found


def plan_canaries(images: str, pairs: int, seed: int, out: str, endpoint: str | None = None) -> list[str]:
    """Draw the pairs and write the plan: a CSV of `pair`, `file`, and `train` (1 or 0).

    Args:
        images: images in any registered format: a local path or s3://bucket/prefix.
        pairs: how many; each takes two images.
        out: local path of the CSV; it must not exist.

    Returns:
        What to do with it, as lines.

    Raises:
        UserError: there are too few images, two have the same name, or the file exists.
    """
    storage = StorageSection(endpoint=endpoint)
    item = SOURCES[kind_of(images, "IMAGES", storage)]
    source = item.open(Place(images, "IMAGES", labels=False, storage=storage), item.Options())
    names = [record.name for unit in source.units() for record in source.read(unit, only=())]
    if pairs < 1 or 2 * pairs > len(names):
        raise UserError(
            f"--pairs {pairs}: {images} holds {len(names):,} images, which are at most {len(names) // 2:,} pairs"
        )
    name, count = Counter(PurePosixPath(name).name for name in names).most_common(1)[0]
    if count > 1:
        raise UserError(
            f"{count} images of {images} are called {name}; an audit finds them by name, so give each its own"
        )
    path = Path(out)
    if path.exists():
        raise UserError(f"{out} exists; the coins of a plan are thrown once: give another --out")
    rng = np.random.default_rng([seed, 8])
    chosen = rng.permutation(len(names))[: 2 * pairs].reshape(pairs, 2)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for pair, (two, coin) in enumerate(zip(chosen.tolist(), rng.integers(0, 2, pairs).tolist(), strict=True)):
        for place, number in enumerate(two):
            writer.writerow([pair, names[number], int(place == coin)])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(buffer.getvalue(), encoding="utf-8")
    return [
        f"{out}: {pairs:,} pairs. Train on the images with train = 1, and never on those with train = 0; the others are free.",
        "Then audit the model with dpm.kind=import, data.path = what it was trained on, data.holdout_path = the images with "
        f"train = 0, and privacy.canaries={out}.",
        f"{pairs:,} pairs can show an ε of at most {np.log(0.05 ** (1 / pairs) / (1 - 0.05 ** (1 / pairs))):.1f}.",
    ]
