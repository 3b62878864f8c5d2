"""A sample made again from its seed, as evidence that the model and nothing else made it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from side_ray.errors import Damaged, UserError
from side_ray.images import decode_png
from side_ray.report import wording
from side_ray.results.recorded import Recorded
from side_ray.runs.imported.references import References
from side_ray.runs.run import Artifact

if TYPE_CHECKING:
    from side_ray.config import DpmSection
    from side_ray.diffusion.condition.drawn import Conditioning
    from side_ray.diffusion.extrapolation import Extrapolation
    from side_ray.diffusion.guidance import ClassifierSurrogate
    from side_ray.surrogate.lora import LoraSurrogate

CLASSIFIERS = {"td": "student", "lora": "lora", "ti": "ol_ti"}


@dataclass(frozen=True)
class Remade:
    """A sample that was made again.

    Attributes:
        image: uint8 [H, W, C], as made now.
        stored: uint8 [H, W, C], as stored in the run; None if its samples were purged.
        method, scale, sample_id: which sample it is; `scale` is λ.
        seed: from `run.seed` and the sample's number: noise, target and class come from it.
        target: the class that it was guided to; None for plain sampling.
        device: what it was made on now, `cpu` or `cuda`.
        weights: SHA-256 of the weight files that made it, by key in the run; they are those of the report.
    """

    image: np.ndarray
    stored: np.ndarray | None
    method: str
    scale: float
    sample_id: int
    seed: int
    target: int | None
    device: str
    weights: Mapping[str, str]

    @property
    def difference(self) -> int | None:
        """Largest difference of a pixel in 0 … 255; None without a stored image."""
        if self.stored is None:
            return None
        return int(np.abs(self.image.astype(int) - self.stored.astype(int)).max())

    @property
    def identical(self) -> bool | None:
        """Whether every pixel equals the stored image's; None without a stored image."""
        return None if self.difference is None else self.difference == 0

    def to_json(self) -> dict[str, Any]:
        """Everything but the images, as JSON-able values."""
        names = ("method", "sample_id", "seed", "target", "identical", "difference", "device")
        return {**{name: getattr(self, name) for name in names}, "lambda": self.scale, "weights": dict(self.weights)}

    def __str__(self) -> str:
        name = wording.condition_name({"method": self.method, "lambda": self.scale})
        guided = "" if self.target is None else f", target {self.target}"
        lines = [f"sample {self.sample_id} of {name}: seed {self.seed}{guided}, made again on {self.device}"]
        lines += [f"weights {key}: sha256 {digest}, as in the report" for key, digest in self.weights.items()]
        if self.difference is None:
            lines.append("the run's samples were removed, so there is no stored image to compare it with")
        elif self.identical:
            lines.append("identical: every pixel equals that of the stored image")
        else:
            changed = int((self.image != self.stored).any(axis=-1).sum())
            lines.append(
                f"DIFFERENT: {changed:,} of {self.image.shape[0] * self.image.shape[1]:,} pixels differ, by up to "
                f"{self.difference} of 255. Another device, precision or library version changes last bits; large "
                "differences mean that other weights or settings made the stored image"
            )
        return "\n".join(lines)


def remake(recorded: Recorded, method: str, scale: float | None, sample_id: int) -> Remade:
    """Make a sample of a run again, from the seed, the settings and the weights that the report names.

    Args:
        method, scale: its condition, see `Recorded.condition`.
        sample_id: its number within the condition.

    Raises:
        UserError: there is no such sample, the samples were given, or the weights are not those of the report.
    """
    import torch

    from side_ray.config.file import parse_config
    from side_ray.diffusion.dpm import load_dpm
    from side_ray.diffusion.draw import DrawSettings, draw
    from side_ray.diffusion.sampler import sample_seed
    from side_ray.runs.imported.opening import is_own_code
    from side_ray.surrogate.guide import open_base, open_surrogate

    condition, sample_id = recorded.condition(method, scale), int(sample_id)
    if method == "given":
        raise UserError(f"{recorded.store.uri}: its samples were given, so no model can make them again")
    stored, seed = (
        _stored(recorded, condition, sample_id),
        sample_seed(recorded.config["run"]["seed"], "extract", sample_id),
    )
    if stored and stored["seed"] != seed:
        raise UserError(
            f"sample {sample_id}: its stored seed {stored['seed']} does not come from run.seed; the file is changed"
        )
    config = parse_config(dict(recorded.config), f"{recorded.store.uri}: the report's config")
    keys = [recorded.artifacts["dpm"]]
    if method in CLASSIFIERS:
        keys.append(f"{recorded.artifacts['surrogate']}/{CLASSIFIERS[method]}")
    if method == "base":
        keys.append(recorded.artifacts["base"])
    weights = _checked_weights(recorded, keys)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads()
    # As the sampling actors do: a sum's last bits depend on how many threads share it.
    torch.set_num_threads(config.cluster.actor_cpus)
    try:
        directory = _directory(recorded, keys[0])
        model = load_dpm(directory, device=device, code=is_own_code(config, directory))
        surrogate: ClassifierSurrogate | LoraSurrogate | Extrapolation | None = None
        if method in CLASSIFIERS:
            surrogate = open_surrogate(recorded.store.fetch_dir(keys[1]), condition["lambda"], device, model)
        elif method == "base" and config.of_base is not None:
            at, key = _directory(recorded, keys[1]), recorded.artifacts.get("latents")
            latents = None if key is None else recorded.store.fetch_dir(key)
            interval, code = config.extract.base_interval, is_own_code(config.of_base, at)
            surrogate = open_base(at, condition["lambda"], device, latents, interval, code=code)
        settings = DrawSettings.of(config.extract, config.cluster.precision, _conditioning(recorded, config.dpm))
        drawn = draw(model, [seed], settings, surrogate)
        for key in keys:
            if references := _references(recorded, key):
                references.check_local()
    finally:
        torch.set_num_threads(threads)
    return Remade(
        drawn.images[0],
        decode_png(stored["image"]["bytes"]) if stored else None,
        method,
        condition["lambda"],
        sample_id,
        seed,
        None if drawn.targets is None else int(drawn.targets[0]),
        device,
        weights,
    )


def _conditioning(recorded: Recorded, dpm: "DpmSection") -> "Conditioning":
    from side_ray.runs.imported.conditions import read_conditioning

    key, store = recorded.artifacts.get("condition"), recorded.store
    try:
        return read_conditioning(dpm, None if key is None else Artifact(store, key))
    except FileNotFoundError:
        raise UserError(
            f"{store.uri}/{key}: what the conditions of samples were drawn from was removed; run side-ray audit again"
        ) from None


def _stored(recorded: Recorded, condition: Mapping[str, Any], sample_id: int) -> dict[str, Any] | None:
    shards = recorded.shards("samples", condition)
    if not shards.present():
        return None
    return recorded.row("samples", condition, sample_id, ["seed", "image"])


def _directory(recorded: Recorded, key: str) -> Path:
    """A local directory with a model. Raises UserError where weights that the run refers to are not there, or have changed."""
    directory, references = recorded.store.fetch_dir(key), _references(recorded, key)
    return directory if references is None else references.directory(directory)


def _references(recorded: Recorded, key: str) -> References | None:
    try:
        return Artifact(recorded.store, key).references()
    except Damaged as damage:
        raise UserError(f"{recorded.store.uri}: {damage}; run side-ray audit, which makes it again") from None


def _checked_weights(recorded: Recorded, keys: list[str]) -> dict[str, str]:
    """The SHA-256 of the weight files below `keys`, of those that the run only refers to as it records them. Raises UserError
    unless they are those that the report names."""
    known, store = recorded.metrics["provenance"]["sha256"], recorded.store
    wanted = [key for key in known if any(key.startswith(f"{directory}/") for directory in keys)]
    referenced = {
        f"{key}/{name}": each.sha256
        for key in keys
        if (kept := _references(recorded, key)) is not None
        for name, each in kept.files.items()
    }
    for key in wanted:
        try:
            found = referenced.get(key) or hashlib.sha256(store.read(key)).hexdigest()
        except FileNotFoundError:
            raise UserError(f"{store.uri}/{key}: the weights are no longer there; run side-ray audit again") from None
        if found != known[key]:
            raise UserError(
                f"{store.uri}/{key}: has SHA-256 {found}, the report names {known[key]}: the weights changed"
            )
    return {key: known[key] for key in wanted}
