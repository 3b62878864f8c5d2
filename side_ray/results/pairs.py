"""The pairs of a sample and its closest training image that a report shows, with their images."""

import base64
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ImageFilter

from side_ray.images import decode_png, encode_png
from side_ray.results.extracted import members_of
from side_ray.results.opened import picture
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.dataset import read_groups, read_split
from side_ray.runs.plan import Condition
from side_ray.similarity import SIMILARITIES
from side_ray.sources.select import SPLITS
from side_ray.statistics.scores import ConditionScores

THUMBNAIL = 96
"""Longest side (pixels) of an image among all pairs; the closest pairs of each method are shown in full."""
MOST_BYTES = 8 * 2**20
"""Of all thumbnails of a page, so that it stays below 15 MB."""
BORDERLINE = 24
"""Pairs just beyond the cut that are shown beside those within it."""
_BLUR = 6
"""The radius of the blur is the longest side divided by this."""


@dataclass(frozen=True)
class Chosen:
    """One pair: the condition and id of the sample, its closest training image, and the similarity between them."""

    condition: Condition
    sample_id: int
    train_id: int
    value: float


def closest_of_each(
    scores: Mapping[Condition, ConditionScores], larger_is_closer: bool, limit: int
) -> dict[str, list[Chosen]]:
    """The `limit` closest pairs of each method, at most one per training image."""
    sign = -1 if larger_is_closer else 1
    found: dict[str, list[Chosen]] = defaultdict(list)
    for each, result in scores.items():
        order = np.argsort(sign * result.best, kind="stable")
        _, first = np.unique(result.best_id[order], return_index=True)
        found[each.method] += _chosen(each, result, order[np.sort(first)][:limit])
    for method, pairs in found.items():
        distinct: dict[int, Chosen] = {}
        for pair in sorted(pairs, key=lambda pair: (sign * pair.value, pair.sample_id)):
            distinct.setdefault(pair.train_id, pair)
        found[method] = list(distinct.values())[:limit]
    return dict(found)


def around_the_cut(
    scores: Mapping[Condition, ConditionScores],
    within: Mapping[Condition, np.ndarray],
    larger_is_closer: bool,
    limit: int,
) -> tuple[list[Chosen], int]:
    """The pairs within the cut of all conditions, the closest `limit` of them, then `BORDERLINE` just beyond it.

    Args:
        within: of each condition bool [N_G], whether a sample is within the cut.

    Returns:
        The pairs, and how many are within the cut.
    """
    sign = -1 if larger_is_closer else 1
    inside, beyond = [], []
    for each, result in scores.items():
        inside += _chosen(each, result, np.flatnonzero(within[each]))
        outside = np.flatnonzero(~within[each] & np.isfinite(result.best))
        nearest = outside[np.argsort(sign * result.best[outside], kind="stable")][:BORDERLINE]
        beyond += _chosen(each, result, nearest)
    inside, beyond = (sorted(pairs, key=lambda pair: sign * pair.value) for pairs in (inside, beyond))
    return [*inside[:limit], *beyond[: BORDERLINE if limit else 0]], len(inside)


def _chosen(condition: Condition, result: ConditionScores, rows: np.ndarray) -> list[Chosen]:
    return [Chosen(condition, int(i), int(result.best_id[i]), float(result.best[i])) for i in rows]


class Pictures:
    """The images of pairs, read from the run in few reads.

    Args:
        redact: `none`, `blur` or `omit`: what is done to every image before it is shown.
    """

    def __init__(self, artifacts: Artifacts, pairs: Iterable[Chosen], redact: str = "none") -> None:
        self.artifacts, self.redact = artifacts, redact
        self.pairs = list(dict.fromkeys(pairs))
        self._unseen = self._nearest_unseen()
        ids = sorted({pair.train_id for pair in self.pairs})
        self.about = members_of(artifacts.run.store, artifacts.prepare.key, ids)
        self._members = self._read("member", ids)
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

    def listed(self, pairs: Sequence[Chosen], shown: int, within: int, q_values: np.ndarray | None) -> dict[str, Any]:
        """Pairs as JSON-able values, each image once, as many as `MOST_BYTES` hold.

        Args:
            pairs: those within the cut first.
            shown: how many of `pairs` are within the cut.
            within: how many of all pairs are.
            q_values: float64 [m], of the training images.

        Returns:
            `within`; `shown`, how many of the rows are within the cut; `side`, the longest of an image in pixels; `rows` of
            method, λ, sample_id, train_id, value, label, file, q-value, id and value of the nearest unseen image; thumbnails as
            data URIs, `train` and `unseen` by id, `samples` in the order of `rows`.
        """
        side = max((max(image.shape[:2]) for image in self._members.values()), default=0)
        found: dict[str, Any] = {"within": within, "shown": 0, "side": side}
        found |= {"rows": [], "samples": [], "train": {}, "unseen": {}}
        spent = 0
        for pair in pairs:
            if spent > MOST_BYTES:
                break
            unseen_id, unseen_value = self._unseen.get((pair.condition, pair.sample_id), (None, None))
            added = [self._thumbnail(self._samples[pair.condition, pair.sample_id])]
            if pair.train_id not in found["train"]:
                added.append(self._thumbnail(self._members[pair.train_id]))
                found["train"][pair.train_id] = added[-1]
            if unseen_id is not None and unseen_id not in found["unseen"]:
                added.append(self._thumbnail(self._others[unseen_id]))
                found["unseen"][unseen_id] = added[-1]
            about, q_value = self.about[pair.train_id], None if q_values is None else float(q_values[pair.train_id])
            row = [pair.condition.method, pair.condition.scale, pair.sample_id, pair.train_id, pair.value]
            found["rows"].append([*row, about["label"], about["file"], q_value, unseen_id, unseen_value])
            found["samples"].append(added[0])
            spent += sum(map(len, added))
        found["shown"] = min(shown, len(found["rows"]))
        return found

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
        found = {}
        for (condition, shard), ids in self._by_shard(lambda each: self.artifacts.samples(each).rows).items():
            samples = self.artifacts.samples(condition)
            column = samples.read(shard, ["image"]).column("image")
            for id in ids:
                found[condition, id] = decode_png(column[id - shard * samples.rows]["bytes"].as_py())
        return found

    def _read(self, split: str, ids: list[int]) -> dict[int, np.ndarray]:
        found = read_split(self.artifacts.run.store, self.artifacts.prepare.key, split, ids=ids)
        return dict(zip(found.ids.tolist(), found.images, strict=True))

    def _png(self, image: np.ndarray) -> bytes | None:
        return None if self.redact == "omit" else encode_png(self._shown(image))

    def _thumbnail(self, image: np.ndarray) -> str:
        """A data URI; empty where images are left out."""
        if self.redact == "omit":
            return ""
        shown = self._shown(image)
        if max(shown.shape[:2]) <= THUMBNAIL:
            return _data_uri(encode_png(shown), "png")
        small, buffer = picture(shown), io.BytesIO()
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        small.convert("L" if shown.shape[2] == 1 else "RGB").save(buffer, format="JPEG", quality=85)
        return _data_uri(buffer.getvalue(), "jpeg")

    def _shown(self, image: np.ndarray) -> np.ndarray:
        if self.redact != "blur":
            return image
        blurred = picture(image).filter(ImageFilter.GaussianBlur(max(image.shape[:2]) / _BLUR))
        return np.asarray(blurred).reshape(image.shape)


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(data).decode("ascii")


def report_pairs(
    artifacts: Artifacts,
    scores: Mapping[Condition, ConditionScores],
    within: Mapping[Condition, np.ndarray],
    q_values: np.ndarray | None,
    *,
    closest: int,
    most: int,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The closest pairs of each method with their images, and the pairs around the cut to look through.

    Args:
        within: as of `around_the_cut`.
        closest: pairs of each method.
        most: pairs within the cut to look through.

    Raises:
        Damaged: scores, samples or prepared images cannot be read.
    """
    larger = SIMILARITIES[artifacts.config.score.similarity].larger_is_closer
    best = [pair for pairs in closest_of_each(scores, larger, closest).values() for pair in pairs]
    listed, count = around_the_cut(scores, within, larger, most)
    pictures = Pictures(artifacts, [*best, *listed], artifacts.config.report.redact)
    return pictures.items(best), pictures.listed(listed, min(count, most), count, q_values)
