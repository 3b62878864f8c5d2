"""What the newest report of a run was made from, as the report itself says."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from side_ray.config import ScoreSection
from side_ray.errors import Damaged, UserError
from side_ray.report import findings, wording
from side_ray.runs.run import Artifact, Run, condition_name, part_name
from side_ray.runs.scores import NEIGHBORS, compete_table, images_of_pool
from side_ray.runs.shards import ShardSet, shards_of
from side_ray.search import closeness_of
from side_ray.similarity import similarity_of
from side_ray.sources.select import SPLITS
from side_ray.statistics.evidence.excess import Excess, excess
from side_ray.statistics.evidence.pool import Competition
from side_ray.statistics.hits import BandHits, hits_from_columns, merge_hits, union
from side_ray.storage import Store
from side_ray.storage.sealed import MISSING, read_table


@dataclass(frozen=True)
class Recorded:
    """The newest report of a run.

    Attributes:
        store: the run directory.
        key: key of the report, `report/<fingerprint>`.
        metrics: the content of its metrics.json.
    """

    store: Store
    key: str
    metrics: Mapping[str, Any]

    @classmethod
    def open(cls, store: Store) -> "Recorded":
        """Open the report that `latest.json` points to.

        Raises:
            UserError: there is none.
        """
        try:
            key = Run(store).latest()["report"]
            return cls(store, key, Artifact(store, key).read_json("metrics.json"))
        except (FileNotFoundError, KeyError):
            raise UserError(f"{store.uri}: holds no report; run side-ray audit first, or check the path") from None
        except Damaged as damage:
            raise UserError(f"{store.uri}: {damage}; run side-ray audit, which makes it again") from None

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved config, as JSON-able values."""
        found: Mapping[str, Any] = self.metrics["provenance"]["config"]
        return found

    @property
    def artifacts(self) -> Mapping[str, Any]:
        """By stage, the keys of the artifacts; those of `samples`, `scores` and `hits` by condition."""
        found: Mapping[str, Any] = self.metrics["provenance"]["artifacts"]
        return found

    @cached_property
    def criterion(self) -> findings.Criterion:
        """What counts as a copy: the calibrated cut, or without one the strictest cumulative band."""
        found = findings.main_criterion(self.metrics)
        if found is None:
            raise UserError(f"{self.store.uri}: its report has no scored condition; run side-ray audit again")
        return found

    @property
    def larger_is_closer(self) -> bool:
        return not wording.lower_is_closer(self.metrics["similarity"])

    def condition(self, method: str, scale: float | None = None) -> Mapping[str, Any]:
        """The entry of a condition in metrics.json.

        Args:
            method: random, td, ti, given, …
            scale: λ; not needed where the method has only one.

        Raises:
            UserError: there is no such condition, or `scale` is needed; the message names those that exist.
        """
        mine = [each for each in self.metrics["conditions"] if each["method"] == method]
        found = mine if scale is None else [each for each in mine if each["lambda"] == scale]
        if len(found) != 1:
            known = ", ".join(f"{each['method']} λ={each['lambda']:g}" for each in mine or self.metrics["conditions"])
            wanted = method if scale is None else f"{method} λ={scale:g}"
            problem = "has several λ, give one of them" if found else "is not in the report; choose one of"
            raise UserError(f"{wanted} {problem}: {known}")
        return found[0]

    def scores(self, condition: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The scores of one condition's samples, sorted by sample id: `sample_id`, `best_id` int64 [N_G], `best` and, with
        held-out images, `holdout_best` float32 [N_G].

        Raises:
            UserError: they are no longer there.
        """
        shards = self.shards("scores", condition)
        wanted = ["sample_id", "best_id", "best", "holdout_best"]
        try:
            table = shards.read_first(shards_of(condition["n"], shards.rows), wanted)
        except Damaged as damage:
            raise self._gone("scores", damage) from None
        return {name: table.column(name).to_numpy() for name in table.column_names}

    def excess(self, condition: Mapping[str, Any], n: int) -> Excess | None:
        """The excess of one condition's first n samples, whole shards of them; None where no unseen image was compared.

        Raises:
            UserError: its scores, or the groups of its images, are no longer there, or the similarity cannot be opened.
        """
        if self.metrics.get("cut") is None or condition.get("excess") is None:
            return None
        similarity = similarity_of(ScoreSection.model_validate(self.config["score"]))
        prepared = Artifact(self.store, self.artifacts["prepare"])
        try:
            info = prepared.info()
            shape = images_of_pool(self.store, prepared.key, {split: info[split] for split in SPLITS})
            limit = float(closeness_of(np.float32(self.metrics["cut"]), similarity.larger_is_closer))
            shards, parts = self.shards("scores", condition), []
            for index in range(shards_of(n, shards.rows)):
                parts.append(compete_table(shards.read(index, NEIGHBORS), shape.members, similarity, limit))
        except Damaged as damage:
            raise self._gone("scores", damage) from None
        return excess(Competition.join(parts).first(n), shape)

    def hits(self, condition: Mapping[str, Any]) -> BandHits | None:
        """The training images that one condition's samples match within the cut (Eq. 15); None if they are no longer there."""
        scores, found = self.shards("scores", condition), []
        directory = self.artifacts.get("hits", {}).get(condition_name(condition["method"], condition["lambda"]))
        if directory is None:
            return None
        for index in range(shards_of(condition["n"], scores.rows)):
            try:
                columns = read_table(self.store, f"{directory}/{part_name(index)}").to_pydict()
            except Damaged:
                return None
            names = ("band", "train_id", "count", "sample_id")
            found.append(hits_from_columns(*(np.array(columns[name]) for name in names)))
        return union(merge_hits(found), [self.criterion.name])

    def row(self, stage: str, condition: Mapping[str, Any], sample_id: int, columns: list[str]) -> dict[str, Any]:
        """One row of the same tables.

        Raises:
            UserError: there is no sample of that number, or the table is no longer there.
        """
        if not 0 <= sample_id < condition["n"]:
            raise UserError(f"sample {sample_id}: {wording.condition_name(condition)} has 0 … {condition['n'] - 1}")
        shards = self.shards(stage, condition)
        shard, row = divmod(sample_id, shards.rows)
        try:
            found: dict[str, Any] = shards.read(shard, columns).slice(row, 1).to_pylist()[0]
        except Damaged as damage:
            raise self._gone(stage, damage) from None
        return found

    def shards(self, stage: str, condition: Mapping[str, Any]) -> ShardSet:
        """The shards of one condition's `samples`, `scores` or `hits`."""
        directory = self.artifacts[stage][condition_name(condition["method"], condition["lambda"])]
        rows = self.config["extract"]["shard_size"]
        return ShardSet(self.store, directory, directory.split("/")[1], rows, condition["n"])

    def _gone(self, stage: str, damage: Damaged) -> UserError:
        what = "no longer there" if damage.reason == MISSING else "damaged"
        return UserError(f"{self.store.uri}: the {stage} of its report are {what}; run side-ray audit again")
