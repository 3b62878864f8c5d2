"""Repair of damaged files: find them, delete them, and make them again."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from side_ray.errors import Damaged, RunError, joined
from side_ray.execution.audit import Audit
from side_ray.execution.derived.frechet import frechet_artifacts
from side_ray.results.privacy import Coins, coins_of, losses_of
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.control import control_artifacts, control_conditions, control_hits, control_samples, control_scores
from side_ray.runs.dataset import PLAN
from side_ray.runs.plan import conditions
from side_ray.runs.run import Artifact
from side_ray.runs.shards import ShardSet, shards_of
from side_ray.storage import Store
from side_ray.storage.sealed import MISSING, open_json, sealed_table

MOST_REPAIRS = 3
"""Repairs of one file."""
READERS = 8

Result = TypeVar("Result")
Check = Callable[[], bool]
"""Raises Damaged; returns whether a file has a seal."""


def mending(audit: Audit, work: Callable[[], Result]) -> Result:
    """`repairing`, where `work` itself makes what is missing; each repair is said in one line. Raises what `repairing` does."""
    return repairing(audit.run.store, work, lambda damage: audit.reporter.warn(f"{damage}: making it again"))


def repairing(store: Store, work: Callable[[], Result], remake: Callable[[Damaged], object]) -> Result:
    """Call `work`. If it finds damaged files, delete them, call `remake`, and call `work` again.

    Args:
        remake: prepares that `work` makes them again, or says so.

    Raises:
        RunError: a file was damaged again after `MOST_REPAIRS` repairs: the store loses data.
    """
    repaired: Counter[str] = Counter()
    while True:
        try:
            return work()
        except Damaged as damage:
            if repaired[damage.keys[0]] == MOST_REPAIRS:
                raise RunError(
                    f"{damage}, after {MOST_REPAIRS} repairs: check the storage that holds the run"
                ) from damage
            repaired[damage.keys[0]] += 1
            for key in damage.doomed:
                store.delete(key)
            remake(damage)


def check_finished(audit: Audit) -> None:
    """Compare every file of an audit whose report exists with its digest. What is damaged or missing is said in one line for each
    stage, and deleted, so that the stages make it again. Does nothing before there is a report."""
    if not _begun(audit.artifacts.report):
        return
    damages: dict[str, list[Damaged]] = {}
    unsealed = 0
    # The prepared images first: finding out what else there should be reads files of theirs, and reading seals older files.
    for title, found_checks in (
        ("check images", _of_artifact(audit.artifacts.prepare)),
        ("check", _checks(audit.artifacts)),
    ):
        checks = list(found_checks)
        with audit.reporter.bar(title, len(checks), "files") as bar, ThreadPoolExecutor(READERS) as readers:
            for found in readers.map(_outcome, checks):
                if isinstance(found, Damaged):
                    damages.setdefault(found.keys[0].split("/")[0], []).append(found)
                else:
                    unsealed += not found
                bar.advance(1)
    for each in map(joined, damages.values()):
        audit.reporter.warn(f"{each}: making it again")
        for key in each.doomed:
            audit.run.store.delete(key)
    if unsealed:
        audit.reporter.say(
            f"{unsealed:,} files are of an earlier version, without digests; they are accepted as they are, and their digests "
            "are recorded"
        )


def _begun(artifact: Artifact) -> bool:
    try:
        artifact.check()
    except FileNotFoundError:
        return False
    except Damaged:
        pass
    return True


def _outcome(check: Check) -> bool | Damaged:
    try:
        return check()
    except Damaged as damage:
        return damage


def _checks(artifacts: Artifacts) -> Iterator[Check]:
    """One check for each artifact but the prepared images, each table in one, and each shard. The report checks itself."""
    config = artifacts.config
    made: list[Artifact] = []
    shards = [(artifacts.synthetic, artifacts.cut_shards)]
    sampled = [artifacts.samples(each) for each in conditions(config)]
    for split, each in artifacts.reconstructions.items():
        shards.append((each, shards_of(artifacts.sizes[split], each.rows)))
    if not config.given:
        guides = dict.fromkeys(key for each in conditions(config) if (key := artifacts.classifier(each)))
        made += [
            artifacts.dpm,
            artifacts.surrogate,
            *([artifacts.latents] if artifacts.latents else []),
            *(Artifact(artifacts.run.store, key) for key in guides),
        ]
    with suppress(Damaged, FileNotFoundError):  # of the prepared images, which are checked first
        if not config.given and isinstance(coins := coins_of(artifacts), Coins):
            losses = losses_of(artifacts, coins)
            shards.append((losses, shards_of(len(coins.images), losses.rows)))
    scored = []
    if config.control:
        other = control_artifacts(artifacts)
        made += [other.prepare, other.dpm, artifacts.control]
        many = control_conditions(config)
        sampled += [control_samples(artifacts, other, each) for each in many]
        scored += [(control_scores(artifacts, other, each), control_hits(artifacts, other, each)) for each in many]
    count = artifacts.sample_shards
    shards += [(each, count) for each in sampled]
    yield from _each(made, shards)
    for scores, hits in scored:
        yield from (_of_scores(scores, hits, index) for index in range(count))
    for scoring in (artifacts, *artifacts.others.values()):
        yield from _of_scoring(scoring)


def _of_scoring(artifacts: Artifacts) -> Iterator[Check]:
    """The checks of what the scoring by one similarity has made."""
    many = conditions(artifacts.config)
    made: list[Artifact] = []
    shards = [(artifacts.cut, artifacts.cut_shards)]
    if artifacts.cut_shards:
        made.append(artifacts.strata)
        sizes = artifacts.sizes if artifacts.prepare.done else {}
        rows = artifacts.config.extract.shard_size
        shards += [(artifacts.neighborhood(split), shards_of(size, rows)) for split, size in sizes.items()]
    if artifacts.reconstructions:
        made.append(artifacts.ceiling)
    with suppress(Damaged, FileNotFoundError):  # of the prepared images, which are checked first
        made += frechet_artifacts(artifacts)
        shards.append((artifacts.ceilings, 1))
        shards += [(artifacts.changed(many[0], change), artifacts.probe_shards) for change in artifacts.probes]
    yield from _each(made, shards)
    for condition in many:
        scores, hits = artifacts.scores(condition), artifacts.hits(condition)
        yield from (_of_scores(scores, hits, index) for index in range(artifacts.sample_shards))


def _each(made: list[Artifact], shards: list[tuple[ShardSet, int]]) -> Iterator[Check]:
    for artifact in made:
        yield from _of_artifact(artifact)
    for each, number in shards:
        yield from (_of_shard(each, index) for index in range(number))


def _of_artifact(artifact: Artifact) -> Iterator[Check]:
    def whole() -> bool:
        try:
            artifact.check(content=True)
        except FileNotFoundError:
            raise Damaged(artifact.marks, MISSING) from None
        return True

    yield whole
    for entry in artifact.own():
        if entry.key.endswith(".parquet"):
            yield _of_table(artifact, entry.key)
    for name in ("labels.json", PLAN):  # can be made again without the rest
        if artifact.store.exists(f"{artifact.key}/{name}"):
            yield _of_table(artifact, f"{artifact.key}/{name}")


def _of_table(artifact: Artifact, key: str) -> Check:
    def whole() -> bool:
        try:
            if key.endswith(".json"):
                return open_json(key, artifact.store.read(key))[1]
            return sealed_table(artifact.store, key)
        except FileNotFoundError:
            raise Damaged([key], MISSING, artifact.marks) from None
        except Damaged as damage:
            raise Damaged(damage.keys, damage.reason, artifact.marks) from None

    return whole


def _of_shard(shards: ShardSet, index: int) -> Check:
    return lambda: sealed_table(shards.store, shards.key(index))


def _of_scores(scores: ShardSet, hits: ShardSet, index: int) -> Check:
    def whole() -> bool:
        try:
            sealed = sealed_table(hits.store, hits.key(index))
        except Damaged as damage:
            raise Damaged(damage.keys, damage.reason, [scores.key(index)]) from None
        return sealed_table(scores.store, scores.key(index)) and sealed

    return whole
