"""The images of the pairs that a report shows."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from PIL import ImageFilter

from side_ray.images import decode_png, encode_png
from side_ray.results.extracted import members_of
from side_ray.results.opened import picture
from side_ray.results.pairs.chosen import Chosen, around_the_cut, closest_of_each
from side_ray.results.pairs.thumbnails import Thumbnails, Write, small
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.dataset import read_groups, read_split
from side_ray.runs.plan import Condition
from side_ray.similarity import SIMILARITIES
from side_ray.sources.select import SPLITS
from side_ray.statistics.scores import ConditionScores

_BLUR = 6
"""The radius of the blur is the longest side divided by this."""
_READ = 2**28
"""Bytes of pixels that are read at once."""


class Pictures:
    """The images of pairs, read from the run in few reads. Of most only what a thumbnail shows is kept.

    Args:
        whole: those whose images are kept as they are.
        listed: those that only need thumbnails.
        redact: `none`, `blur` or `omit`: what is done to every image before it is shown.
    """

    def __init__(
        self, artifacts: Artifacts, whole: Sequence[Chosen], listed: Sequence[Chosen] = (), redact: str = "none"
    ) -> None:
        self.artifacts, self.redact = artifacts, redact
        self.pairs = list(dict.fromkeys([*whole, *listed]))
        self._whole = set(whole)
        self.side = 0
        """The longest side of an image, in pixels."""
        self._unseen = self._nearest_unseen()
        ids = sorted({pair.train_id for pair in self.pairs})
        self.about = members_of(artifacts.run.store, artifacts.prepare.key, ids)
        self._members = self._read("member", ids, {pair.train_id for pair in whole})
        self._samples = self._read_samples()
        self._others: dict[int, np.ndarray] = {}
        start = 0
        for split in SPLITS[1:]:
            size = artifacts.sizes[split]
            wanted = sorted({id for id, _ in self._unseen.values() if start <= id < start + size})
            if wanted:
                images = self._read(split, [id - start for id in wanted])
                self._others |= {start + id: image for id, image in images.items()}
            start += size

    def items(self, pairs: Iterable[Chosen]) -> list[dict[str, Any]]:
        """Pairs with both images as PNG, for `side_ray.report.page.render`."""
        size = self.artifacts.sizes["member"]
        groups = read_groups(self.artifacts.run.store, self.artifacts.prepare.key, "member", size)
        return [
            {
                "method": pair.condition.method,
                "lambda": pair.condition.scale,
                "train_id": pair.train_id,
                "group_size": int(groups.sizes(np.array(pair.train_id))),
                "sample_id": pair.sample_id,
                "value": pair.value,
                "label": self.about[pair.train_id]["label"],
                "train_png": self._png(self._members[pair.train_id]),
                "sample_png": self._png(self._samples[pair.condition, pair.sample_id]),
            }
            for pair in pairs
        ]

    def listed(
        self, pairs: Sequence[Chosen], shown: int, within: int, q_values: np.ndarray | None, write: Write
    ) -> dict[str, Any]:
        """Pairs as JSON-able values, each image once.

        Args:
            pairs: those within the cut first.
            shown: how many of `pairs` are within the cut.
            within: how many of all pairs are.
            q_values: float64 [m], of the training images.
            write: writes a file of thumbnails beside the page, by its name.

        Returns:
            `within`; `shown`; `side`, the longest of an image in pixels; `rows` of method, λ, sample_id, train_id, value, label,
            file, q-value, id and value of the nearest unseen image; thumbnails as of `Thumbnails.add`, `train` and `unseen` by
            id, `samples` in the order of `rows`; and `sheets`, see `Thumbnails.finish`.
        """
        found: dict[str, Any] = {"within": within, "shown": shown, "side": self.side}
        found |= {"rows": [], "samples": [], "train": {}, "unseen": {}}
        thumbnails = Thumbnails(write, self.side)
        for pair in pairs:
            unseen_id, unseen_value = self._unseen.get((pair.condition, pair.sample_id), (None, None))
            found["samples"].append(self._thumbnail(thumbnails, self._samples[pair.condition, pair.sample_id]))
            if pair.train_id not in found["train"]:
                found["train"][pair.train_id] = self._thumbnail(thumbnails, self._members[pair.train_id])
            if unseen_id is not None and unseen_id not in found["unseen"]:
                found["unseen"][unseen_id] = self._thumbnail(thumbnails, self._others[unseen_id])
            about, q_value = self.about[pair.train_id], None if q_values is None else float(q_values[pair.train_id])
            row = [pair.condition.method, pair.condition.scale, pair.sample_id, pair.train_id, pair.value]
            found["rows"].append([*row, about["label"], about["file"], q_value, unseen_id, unseen_value])
        return found | {"sheets": thumbnails.finish()}

    def _nearest_unseen(self) -> dict[tuple[Condition, int], tuple[int, float]]:
        """The nearest unseen image (in the order of `read_pool`, from 0) of each sample and its value, in the members' unit."""
        found = {}
        for (condition, shard), ids in self._by_shard(lambda each: self.artifacts.scores(each).rows).items():
            scores = self.artifacts.scores(condition)
            table = scores.read(shard)
            if "unseen_neighbor_ids" not in table.column_names:
                return {}
            for id in ids:
                row = table.slice(id - shard * scores.rows, 1).to_pylist()[0]
                if row["unseen_neighbor_ids"]:
                    found[condition, id] = row["unseen_neighbor_ids"][0], row["unseen_neighbor_values"][0]
        return found

    def _by_shard(self, rows: Any) -> dict[tuple[Condition, int], list[int]]:
        found = defaultdict(list)
        for pair in self.pairs:
            found[pair.condition, pair.sample_id // rows(pair.condition)].append(pair.sample_id)
        return found

    def _read_samples(self) -> dict[tuple[Condition, int], np.ndarray]:
        found, whole = {}, {(pair.condition, pair.sample_id) for pair in self._whole}
        for (condition, shard), ids in self._by_shard(lambda each: self.artifacts.samples(each).rows).items():
            samples = self.artifacts.samples(condition)
            column = samples.read(shard, ["image"]).column("image")
            for id in ids:
                image = decode_png(column[id - shard * samples.rows]["bytes"].as_py())
                found[condition, id] = self._kept(image, (condition, id) in whole)
        return found

    def _read(self, split: str, ids: list[int], whole: Collection[int] = ()) -> dict[int, np.ndarray]:
        found: dict[int, np.ndarray] = {}
        at_once = max(1, _READ // prod(self.artifacts.prepare.info()["shape"]))
        for start in range(0, len(ids), at_once):
            some = ids[start : start + at_once]
            images = read_split(self.artifacts.run.store, self.artifacts.prepare.key, split, ids=some)
            read = zip(images.ids.tolist(), images.images, strict=True)
            found |= {id: self._kept(image, id in whole) for id, image in read}
        return found

    def _kept(self, image: np.ndarray, whole: bool) -> np.ndarray:
        """An image as it is shown: in full, or only what a thumbnail holds."""
        self.side = max(self.side, *image.shape[:2])
        shown = self._shown(image)
        return shown if whole else small(shown)

    def _png(self, image: np.ndarray) -> bytes | None:
        return None if self.redact == "omit" else encode_png(image)

    def _thumbnail(self, thumbnails: Thumbnails, image: np.ndarray) -> str | list[int]:
        return "" if self.redact == "omit" else thumbnails.add(small(image))

    def _shown(self, image: np.ndarray) -> np.ndarray:
        if self.redact != "blur":
            return image
        blurred = picture(image).filter(ImageFilter.GaussianBlur(max(image.shape[:2]) / _BLUR))
        return np.asarray(blurred).reshape(image.shape)


def report_pairs(
    artifacts: Artifacts,
    scores: Mapping[Condition, ConditionScores],
    within: Mapping[Condition, np.ndarray],
    q_values: np.ndarray | None,
    *,
    closest: int,
    most: int,
    write: Write,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The closest pairs of each method with their images, and the pairs around the cut to look through.

    Args:
        within: as of `around_the_cut`.
        closest: pairs of each method.
        most: pairs within the cut to look through.
        write: writes a file of thumbnails beside the page, by its name.

    Raises:
        Damaged: scores, samples or prepared images cannot be read.
    """
    larger = SIMILARITIES[artifacts.config.score.similarity].larger_is_closer
    best = [pair for pairs in closest_of_each(scores, larger, closest).values() for pair in pairs]
    listed, count = around_the_cut(scores, within, larger, most)
    pictures = Pictures(artifacts, best, listed, artifacts.config.report.redact)
    return pictures.items(best), pictures.listed(listed, min(count, most), count, q_values, write)
