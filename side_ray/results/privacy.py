"""The lower bound on the privacy loss of a run: which images a fair coin has told apart, and what the scores say about them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from side_ray.results.extracted import names_of
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.dataset import read_groups
from side_ray.runs.plan import no_losses
from side_ray.runs.shards import ShardSet, shards_of
from side_ray.sources.canaries import read_plan
from side_ray.sources.select import SPLITS, Split
from side_ray.statistics.evidence.decoys import Entrants
from side_ray.statistics.evidence.pool import PoolShape
from side_ray.statistics.evidence.privacy import loss_score, privacy_loss

WHY = {
    "off": "privacy.pairs is 0",
    "given": "the samples are given, so what the model was trained on was not drawn here",
    "not_random": "members and unseen images were not told apart by a random draw of side-ray: audit a plan of side-ray canaries",
    "conditional": "the loss of a class-conditional model is not compared",
    "prompts": "the losses of a text-conditioned model are not compared, and its prompts may say who the members are",
    "losses": "the losses of this model are not compared, and no sample depends on the members through the model alone",
    "too_few": "there are too few single members and unseen images",
}
"""Why there is no bound."""


@dataclass(frozen=True)
class Coins:
    """The images that take part: the pairs first, members before unseen images."""

    members: list[tuple[str, int]]
    """Split and id; the first `pairs` are in pairs."""
    unseen: list[tuple[str, int]]
    pairs: int
    handicap: int
    """Pairs at most for which the coin may not have been fair, because a copy of the member was kept out of the unseen sets."""

    @property
    def images(self) -> list[tuple[str, int]]:
        return [*self.members, *self.unseen]


def coins_of(artifacts: Artifacts) -> Coins | str:
    """The pairs of a run, drawn by `run.seed`, or the key in `WHY`. Images with duplicates take no part, because the unseen sets
    hold no copies of members, whatever the draw.

    Raises:
        UserError: the plan of canaries cannot be read.
    """
    config = artifacts.config
    if why := no_losses(config):
        return why
    rng = np.random.default_rng([config.run.seed, 7])
    planned = config.privacy.canaries is not None
    sides = _planned(artifacts) if planned else _drawn(artifacts, rng)
    most = config.privacy.pairs
    members, unseen = (side[:most] for side in sides)
    left_out = artifacts.prepare.info().get("left_out") or {}
    handicap = 0 if planned else sum(left_out.values())
    pairs = min(len(members), len(unseen))
    return Coins(members, unseen, pairs, handicap) if pairs >= LEAST else "too_few"


LEAST = 10
"""Pairs below which nothing can be shown."""


def _drawn(artifacts: Artifacts, rng: np.random.Generator) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    sides = []
    for splits in (SPLITS[:1], SPLITS[1:]):
        single: list[tuple[str, int]] = []
        for split in splits:
            size = artifacts.sizes[split]
            groups = read_groups(artifacts.run.store, artifacts.prepare.key, split, size)
            single += [(split, int(number)) for number in np.setdiff1d(np.arange(size), groups.ids)]
        sides.append([single[i] for i in rng.permutation(len(single))])
    return sides[0], sides[1]


def _planned(artifacts: Artifacts) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """The pairs of a plan of `side-ray canaries` of which both images are in the run on the side that the plan gave them."""
    plan = read_plan(str(artifacts.config.privacy.canaries))
    known = {
        (split == "member", PurePosixPath(name).name): (split, number)
        for split in SPLITS
        for number, name in names_of(artifacts.run.store, artifacts.prepare.key, split).items()
    }
    pairs: dict[int, dict[bool, tuple[str, int]]] = {}
    for pair, file, trained in plan:
        if (trained, PurePosixPath(file).name) in known:
            pairs.setdefault(pair, {})[trained] = known[trained, PurePosixPath(file).name]
    whole = [each for _, each in sorted(pairs.items()) if len(each) == 2]
    return [each[True] for each in whole], [each[False] for each in whole]


def losses_of(artifacts: Artifacts, coins: Coins) -> ShardSet:
    """The denoising losses of the images that take part."""
    artifact = artifacts.losses(coins.images)
    return ShardSet(
        artifact.store, artifact.key, artifact.fingerprint, artifacts.config.extract.shard_size, len(coins.images)
    )


def privacy_metrics(artifacts: Artifacts, shape: PoolShape, pool: Entrants | None) -> dict[str, Any]:
    """The entry `privacy` of metrics.json, see `privacy_loss`; `epsilon` is None with a `reason` where there is no bound.

    Args:
        pool: the scores of the images by the samples that depend on the members through the DPM alone; None without any.

    Raises:
        Damaged: losses cannot be read.
    """
    coins = coins_of(artifacts)
    if not isinstance(coins, Coins):
        return {"epsilon": None, "reason": coins}
    shards = losses_of(artifacts, coins)
    table = shards.read_first(shards_of(len(coins.images), shards.rows), ["loss"])
    losses = np.array(table.column("loss").to_pylist())
    scores = {} if np.isnan(losses).any() else {"loss": loss_score(losses)}
    if pool is not None:
        scores["extraction"] = _extraction(coins.images, artifacts.sizes, shape, pool)
    if not scores:
        return {"epsilon": None, "reason": "losses" if artifacts.config.dpm.prompts is None else "prompts"}
    m, p = len(coins.members), coins.pairs
    paired = {name: (each[:p], each[m : m + p]) for name, each in scores.items()}
    return privacy_loss(paired, {name: (each[:m], each[m:]) for name, each in scores.items()}, coins.handicap)


def _extraction(
    images: Sequence[tuple[str, int]], sizes: dict[Split, int], shape: PoolShape, pool: Entrants
) -> np.ndarray:
    """float64 [N]: the closeness of the closest sample that each image wins; −∞ without one."""
    starts = dict(zip(SPLITS, np.cumsum([0, *(sizes[split] for split in SPLITS)]).tolist(), strict=False))
    by_group = dict(zip(pool.group.tolist(), pool.score.tolist(), strict=True))
    numbers = [starts[split] + number for split, number in images]
    return np.array([by_group.get(int(shape.group[number]), -np.inf) for number in numbers])
