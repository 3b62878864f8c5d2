"""The working directory of a submitted job: this version of side-ray, the resolved config, and the small files that it names."""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from side_ray.config import Config
from side_ray.errors import UserError

MOST_BYTES = 2_000_000
"""Of the package. The cluster's head keeps it in memory, and every node fetches it."""
CONFIG = "audit.yaml"
_SIDE_RAY = Path(__file__).parents[2]
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file, so that equal packages have equal bytes: Ray does not upload one that it has."""


@dataclass(frozen=True)
class Submission:
    """What a job runs."""

    command: Sequence[str]
    """Arguments of `side-ray`."""
    texts: Mapping[str, str]
    """The files that these arguments name, by name."""
    configs: Sequence[Config]
    """The audits, all with one run directory."""

    @property
    def run(self) -> str:
        return self.configs[0].run.uri


def write_package(submission: Submission, path: Path) -> None:
    """Write the package of a job as a zip archive.

    Relative paths in the configs are taken from the working directory, as everywhere; files that they name keep their place.

    Raises:
        UserError: a config names a directory or a large file of this machine, which the cluster would not have.
    """
    files = {str(each.relative_to(_SIDE_RAY.parent)): each.read_bytes() for each in sorted(_code())}
    files |= {name: text.encode() for name, text in submission.texts.items()}
    for key, name in dict.fromkeys(found for config in submission.configs for found in _relative(config)):
        files[name] = _read(key, name)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
    if (size := path.stat().st_size) > MOST_BYTES:
        raise UserError(
            f"the package of the job has {size:,} bytes, more than {MOST_BYTES:,}; put the large files that the config names "
            "on storage that the cluster reaches"
        )


def _code() -> Iterator[Path]:
    return (each for each in _SIDE_RAY.rglob("*") if each.is_file() and "__pycache__" not in each.parts)


def _relative(config: Config) -> Iterator[tuple[str, str]]:
    """The relative paths in a config, with their keys."""
    dpm, data, surrogate = config.dpm, config.data, config.surrogate
    of_base = dpm.of_base
    prompts = None if dpm.prompts in (None, "captions", "member_captions", "unseen_captions", "empty") else dpm.prompts
    named = [
        ("run.uri", config.run.uri),
        ("data.path", data.path),
        ("data.holdout_path", data.holdout_path),
        ("data.labels_file", data.option("labels_file")),
        ("dpm.path", dpm.function[0] if dpm.function else dpm.path),
        ("dpm.base", of_base.function[0] if of_base and of_base.function else dpm.base),
        *(("dpm.files", each) for each in dpm.files),
        *(("dpm.lora", each) for each in dpm.lora),
        ("dpm.prompts", prompts),
        ("given.samples", config.given.samples if config.given else None),
        ("score.checkpoint", config.score.option("checkpoint")),
        ("surrogate.encoder", surrogate.encoder),
        ("surrogate.teacher", surrogate.teacher),
        ("privacy.canaries", config.privacy.canaries),
    ]
    for key, path in named:
        if path and "://" not in path and not Path(path).is_absolute():
            yield key, str(path)


def _read(key: str, name: str) -> bytes:
    path, remedy = Path(name), "give s3://bucket/prefix, or an absolute path on storage that every node mounts"
    if key == "run.uri":
        raise UserError(f"{name!r} is relative to this machine's working directory; {remedy}", key)
    if ".." in path.parts or not path.is_file():
        what = "is no file in the working directory, which would be sent along with the job"
        raise UserError(f"{name!r} {what}; {remedy}", key)
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{name!r} has {path.stat().st_size:,} bytes, too many to be sent with the job; {remedy}", key)
    return path.read_bytes()
