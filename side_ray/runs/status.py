"""Progress of a run, read from its storage alone, so it works on any machine that can read the run directory.

Each command records its stages in `plan.json`: what is counted, and where it is written. Reading them needs neither the
training data nor the model, which the names of the artifacts depend on.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.table import Table

from side_ray.config import Config
from side_ray.config.file import parse_config
from side_ray.errors import UserError
from side_ray.report.wording import duration
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.control import control_artifacts, control_conditions, control_samples, control_scores
from side_ray.runs.plan import Condition, conditions, loss_images
from side_ray.runs.run import PURGED, Artifact, Run, read_progress
from side_ray.runs.shards import ShardSet, shards_of
from side_ray.storage import Store

PLAN = "plan.json"
TIMES = "times.json"
"""Seconds that each step has taken, all commands on the run together."""
RECENT_S = 600.0
"""The rate is computed from shards that were written within this time."""


@dataclass(frozen=True)
class Stage:
    """One stage as recorded: `total` units at each of `keys`, in shards of `rows` units.

    An `artifact` is complete or not, a `training` reports its steps, `shards` are listed.
    """

    stage: str
    kind: Literal["artifact", "training", "shards"]
    unit: str
    keys: list[str]
    total: int = 1
    rows: int = 1


@dataclass(frozen=True)
class Row:
    """One stage: finished and total units, recent rate in units/s (None = unknown), and keys of failed shards."""

    stage: str
    done: int
    total: int
    unit: str
    rate: float | None = None
    failed: tuple[str, ...] = ()

    @property
    def left(self) -> int:
        return max(0, self.total - self.done)

    def to_json(self) -> dict[str, Any]:
        """The row as JSON-able values, with `left`, and `eta` in seconds (None = unknown)."""
        eta = self.left / self.rate if self.rate and self.left else None
        return {**asdict(self), "left": self.left, "eta": eta}


def planned(artifacts: Artifacts) -> list[Stage]:
    """The stages of an audit, in order."""

    latest = artifacts.run.latest()

    def key_of(name: str, each: Condition | None) -> str:
        if name == "privacy":
            # Its place depends on the prepared images. It is that of the last command, if that was about the same model.
            return str(latest.get(name, "")) if latest.get("dpm") == artifacts.dpm.key else ""
        if each is not None:
            directory: str = getattr(artifacts, name)(each).directory
            return directory
        found = getattr(artifacts, name)
        return str(found.directory if isinstance(found, ShardSet) else found.key)

    return list(_stages(artifacts.config, key_of, _control_stages(artifacts) if artifacts.config.control else ()))


def to_do(artifacts: Artifacts) -> list[Row]:
    """The stages of an audit, recorded or not, with what each has left; all of it where the data cannot be read yet."""
    try:
        found = planned(artifacts)
    except UserError:
        found = list(_stages(artifacts.config, lambda *_: None))
    return [_READ[each.kind](artifacts.run.store, each) for each in found]


def record(artifacts: Artifacts, stages: list[Stage] | None = None) -> None:
    """Write `config.yaml` and `plan.json`: what this command is about to do, by default all stages of the audit."""
    store = artifacts.run.store
    found = planned(artifacts) if stages is None else stages
    store.write("config.yaml", artifacts.config.to_yaml().encode())
    store.write(PLAN, json.dumps([asdict(each) for each in found], indent=1).encode())
    if store.exists(PURGED):
        store.delete(PURGED)


def locate(store: Store, stage: str, key: str, total: int) -> None:
    """Enter the key and the number of units of a stage that were not known when its command recorded it; 0 if it does nothing."""
    try:
        found = json.loads(store.read(PLAN))
        for each in found:
            if each["stage"] == stage:
                each |= {"keys": [key], "total": total}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return
    store.write(PLAN, json.dumps(found, indent=1).encode())


def spend(store: Store, step: str, seconds: float) -> None:
    """Add to the time that a step has taken."""
    found = spent(store)
    store.write(TIMES, json.dumps({**found, step: round(found.get(step, 0.0) + seconds, 3)}, indent=1).encode())


def spent(store: Store) -> dict[str, float]:
    """Seconds by step; empty before the first step has ended, and where the file is damaged."""
    try:
        found = json.loads(store.read(TIMES))
        return {str(step): float(seconds) for step, seconds in found.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def moved(artifacts: Artifacts) -> str:
    """Why the images or the model of the last command on this run are not used again, and what follows; "" where they are, or
    there are none.

    To be asked before `record`, which replaces the config of that command.
    """
    if (before := _left(artifacts, "prepare")) is not None:
        if changed := _changed_keys(artifacts, _drawn):
            why = f"{', '.join(changed)} changed"
        elif before == artifacts.earlier_prepare.key:
            why = (
                "files of data.path were modified after they were prepared, and the version that did so recorded no digest of "
                "all; if they are the same, give them their old times (cp -p keeps these)"
            )
        else:
            why = "files of data.path were added, removed or changed"
        what = "The images are prepared anew"
    elif not artifacts.config.given and (before := _left(artifacts, "dpm")) is not None:
        imported = artifacts.config.dpm.kind == "import"
        if changed := _changed_keys(artifacts, _of_model):
            why = f"{', '.join(changed)} changed"
        else:
            why = "files of dpm.path changed" if imported else "its training images or the version of side-ray changed"
        what = f"The model is {'imported' if imported else 'made'} anew"
    else:
        return ""
    return f"{before} is not used again: {why}. {what}, and all that was made of it is made again"


def _left(artifacts: Artifacts, stage: Literal["prepare", "dpm"]) -> str | None:
    """The key of what the last command on the run made in a stage, if the audit will make another one in its place."""
    before = artifacts.run.latest().get(stage)
    if not isinstance(before, str) or not Artifact(artifacts.run.store, before).done:
        return None
    now: Artifact = getattr(artifacts, stage)
    return None if now.key == before or now.done else before


def _drawn(config: Config) -> dict[str, Any]:
    return {f"data.{key}": value for key, value in config.data.settings().items()} | {"run.seed": config.run.seed}


def _of_model(config: Config) -> dict[str, Any]:
    dpm = config.dpm
    settings = (
        dpm.training_settings()
        if dpm.kind == "train"
        else dpm.model_dump(mode="json", exclude={"check", "base", "copy_below_gb"})
    )
    return {f"dpm.{key}": value for key, value in settings.items()} | {"cluster.precision": config.cluster.precision}


def _changed_keys(artifacts: Artifacts, settings: Callable[[Config], dict[str, Any]]) -> list[str]:
    """The config keys among `settings` that the last command on the run had otherwise."""
    import yaml

    try:
        last = parse_config(yaml.safe_load(artifacts.run.store.read("config.yaml")), "config.yaml")
    except (UserError, FileNotFoundError, ValueError, AttributeError, yaml.YAMLError):
        return []
    old, new = settings(last), settings(artifacts.config)
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))


def merged(plans: list[list[Stage]]) -> list[Stage]:
    """The stages of several audits that share some of their artifacts, each artifact once."""
    found: dict[tuple[Any, ...], list[str]] = {}
    # The longest first, so that a stage that only some audits have keeps its place.
    for each in (stage for plan in sorted(plans, key=len, reverse=True) for stage in plan):
        found.setdefault((each.stage, each.kind, each.unit, each.total, each.rows), []).extend(each.keys)
    return [
        Stage(stage, kind, unit, list(dict.fromkeys(keys)), total, rows)
        for (stage, kind, unit, total, rows), keys in found.items()
    ]


def recorded(store: Store, where: str) -> list[Stage]:
    """The stages that the last command on a run recorded. For a run of a version that recorded none, those of its config:
    where the training data cannot be read, only what `latest.json` points to is found.

    Raises:
        UserError: there is no run at this place.
    """
    import yaml

    try:
        return [Stage(**each) for each in json.loads(store.read(PLAN))]
    except (FileNotFoundError, ValueError, TypeError):  # a damaged one is not worth a message: the config says the same
        pass
    try:
        config = parse_config(yaml.safe_load(store.read("config.yaml")), f"{where}/config.yaml")
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(
            f"{where}: config.yaml is damaged; run the command of this audit again, which writes it anew"
        ) from None
    except FileNotFoundError:
        raise UserError(f"{where}: holds no run (no config.yaml); check the path and, for S3, the endpoint") from None
    try:
        return planned(Artifacts(config, Run(store)))
    except UserError:
        latest = Run(store).latest()
        return list(_stages(config, lambda name, each: _found(latest, name, each)))


def _found(latest: dict[str, Any], name: str, each: Condition | None) -> str | None:
    return latest.get(name) if each is None else latest.get(name, {}).get(each.name)


def _stages(
    config: Config, key_of: Callable[[str, Condition | None], str | None], control: Iterator[Stage] | tuple[()] = ()
) -> Iterator[Stage]:
    """The stages of a config. `key_of` returns the key of an artifact of `Artifacts`; None if it is not known."""
    many, samples, size = conditions(config), config.extract.samples, config.extract.shard_size

    def at(name: str, *of: Condition, part: str = "") -> list[str]:
        found = [key_of(name, each) for each in of or (None,)]
        return [f"{key}{part}" if key else "" for key in found]

    yield Stage("prepare", "artifact", "data set", at("prepare"))
    if config.given:
        yield Stage("import", "shards", "samples", at("samples", *many), samples, size)
    else:
        if config.dpm.kind == "train":
            yield Stage("train_dpm", "training", "steps", at("dpm"), config.dpm.steps)
        else:
            base = at("base") if config.dpm.base is not None else []
            yield Stage("train_dpm", "artifact", "model", [*at("dpm"), *base])
        yield Stage("synthetic", "shards", "samples", at("synthetic"), config.surrogate.synthetic, size)
        steps = {
            "td": ("lora" if config.surrogate.kind == "lora" else "student", config.surrogate.steps),
            "ti": ("ol_ti", config.surrogate.ti_steps),
        }
        for name, count in (steps[method] for method in ("td", "ti") if method in config.extract.methods):
            yield Stage(f"train_surrogate: {name}", "training", "steps", at("surrogate", part=f"/{name}"), count)
        yield Stage("extract", "shards", "samples", at("samples", *many), samples, size)
    yield Stage("score", "shards", "samples", at("scores", *many), samples, size)
    if images := loss_images(config):
        # Exactly how many, and where, is known when the data set is prepared (`locate`).
        yield Stage("privacy", "shards", "images", at("privacy"), images, size)
    yield from control
    yield Stage("report", "artifact", "report", at("report"))


def _control_stages(artifacts: Artifacts) -> Iterator[Stage]:
    config, size = artifacts.config, artifacts.config.extract.shard_size
    other, wanted = control_artifacts(artifacts), control_conditions(config)
    samples = [control_samples(artifacts, other, each).directory for each in wanted]
    scores = [control_scores(artifacts, other, each).directory for each in wanted]
    yield Stage("control: train_dpm", "training", "steps", [other.dpm.key], config.dpm.steps)
    yield Stage("control: extract", "shards", "samples", samples, config.extract.samples, size)
    yield Stage("control: score", "shards", "samples", scores, config.extract.samples, size)


def rows(store: Store, where: str) -> list[Row]:
    """The stages of a run in order; each costs one listing per condition. Raises UserError if there is no run."""
    return [_READ[each.kind](store, each) for each in recorded(store, where)]


def purged_at(store: Store) -> str | None:
    """When the run's images were removed (ISO 8601, UTC); None if they were not."""
    try:
        return str(json.loads(store.read(PURGED))["at"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return "an unknown date"


def table(found: list[Row]) -> Table:
    """The rows as a table for the terminal."""
    shown = Table("stage", "done", "left", "rate", "ETA", "failed shards", box=None)
    for row in found:
        rate = "" if row.rate is None else f"{row.rate:,.1f}/s"
        eta = duration(row.left / row.rate) if row.rate and row.left else ""
        failed = ", ".join(row.failed[:3]) + (f" and {len(row.failed) - 3} more" if len(row.failed) > 3 else "")
        shown.add_row(row.stage, f"{row.done:,} of {row.total:,} {row.unit}", f"{row.left:,}", rate, eta, failed)
    return shown


def _artifact(store: Store, stage: Stage) -> Row:
    done = sum(bool(key) and Artifact(store, key).done for key in stage.keys)
    return Row(stage.stage, done, len(stage.keys), stage.unit)


def _training(store: Store, stage: Stage) -> Row:
    done, rates = 0, []
    for artifact in (Artifact(store, key) for key in stage.keys if key):
        if artifact.done:
            done += stage.total
            continue
        progress = read_progress(artifact)
        done += progress.get("step", 0)
        if progress and time.time() - progress["at"] < RECENT_S:
            rates.append(progress["rate"])
    return Row(stage.stage, done, stage.total * len(stage.keys), stage.unit, sum(rates) if rates else None)


def _shards(store: Store, stage: Stage) -> Row:
    now, done = time.time(), 0
    recent: list[tuple[float, int]] = []
    failed: list[str] = []
    for key in filter(None, stage.keys):
        shards = ShardSet(store, key, key.split("/")[1], stage.rows, stage.total)
        found = {i: at for i, at in shards.written().items() if i < shards_of(stage.total, stage.rows)}
        done += sum(shards.size(index) for index in found)
        recent += [(at, shards.size(index)) for index, at in found.items() if now - at < RECENT_S]
        failed += [shards.key(index) for index in shards.failures() if index not in found]
    recent.sort()
    rate = None
    if len(recent) > 1 and recent[-1][0] > recent[0][0]:
        rate = sum(size for _, size in recent[1:]) / (recent[-1][0] - recent[0][0])
    return Row(stage.stage, done, stage.total * len(stage.keys), stage.unit, rate, tuple(failed))


_READ = {"artifact": _artifact, "training": _training, "shards": _shards}
