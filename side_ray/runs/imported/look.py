"""A look at some samples of an imported model: is it the right model at all, with pixels in the range that the config says?

A model whose pixels have another range makes images that are no copies, however much it has memorised. Its images fit the data
under its own range; those of a weak model fit under none.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from side_ray.diffusion.dpm import Dpm, is_latent, load_dpm, with_codec
from side_ray.diffusion.draw import Drawn, DrawSettings, draw
from side_ray.diffusion.sampler import decoded, sample_seed
from side_ray.diffusion.spaces.codec import Codec
from side_ray.diffusion.spaces.latents import LatentCodec
from side_ray.diffusion.spaces.pixels import PixelCodec
from side_ray.images import decode_column, to_uint8
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.dataset import read_split
from side_ray.runs.imported.conditions import read_conditioning

LOOK = "look.json"
LOOKED_AT = 64
"""Samples that are looked at."""
COMPARED = 512
"""Members that they are compared with."""
SIDE = 32
"""Larger images are compared as means over blocks, so many along each side."""
UNLIKE, SUSPECT = 10.0, 1.1
"""Other ranges are tried where the values of samples and members differ by more grey levels, or the samples are farther from the
members than so many times the distance of unseen images."""
LEFT, NEARER, ALIKE, COPIES = 0.5, 0.85, 1.25, 0.3
"""A range explains the samples if it brings them to at most `NEARER` of their distance and `ALIKE` times that of unseen images,
and either leaves at most the share `LEFT` of the difference of values, or little more than unseen images have, or makes copies of
them, at most `COPIES` times as far as unseen images."""


@dataclass(frozen=True)
class Look:
    """A set of images beside the members. In grey levels, 0 … 255.

    mean, std: of their pixels.
    unlike: the Wasserstein distance between the distributions of pixel values, theirs and the members'.
    distance: median Euclidean distance to the nearest member, images larger than `SIDE` averaged over blocks.
    """

    mean: float
    std: float
    unlike: float
    distance: float

    def __str__(self) -> str:
        return f"pixel mean {self.mean:.0f} ± {self.std:.0f}, {self.distance:.0f} from the nearest training image"


class Members:
    """The members that images are compared with.

    Args:
        images: uint8 [N, H, W, C].
    """

    def __init__(self, images: np.ndarray) -> None:
        self.images, self._small = images, _small(images)
        self._quantiles = _quantiles(images)

    def look(self, images: np.ndarray, themselves: bool = False) -> Look:
        """Compare images uint8 [M, H, W, C]; `themselves`: they are the first members, each compared with the others."""
        distances = torch.cdist(_small(images), self._small, compute_mode="donot_use_mm_for_euclid_dist")
        if themselves:
            distances.fill_diagonal_(torch.inf)
        nearest = distances.min(dim=1).values
        unlike = float(np.abs(_quantiles(images) - self._quantiles).mean())
        return Look(float(images.mean()), float(images.std()), unlike, float(nearest.median()))


def _small(images: np.ndarray) -> torch.Tensor:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    sides = [min(SIDE, side) for side in pixels.shape[2:]]
    return functional.adaptive_avg_pool2d(pixels, sides).flatten(1)


def _quantiles(images: np.ndarray) -> np.ndarray:
    return np.quantile(images, np.linspace(0, 1, 257))


def other_ranges(members: np.ndarray) -> dict[str, PixelCodec]:
    """Ranges of pixels in use besides [−1, 1], by the settings that say so.

    Args:
        members: uint8 [N, H, W, C], by which a training may have standardized.
    """
    found = {}
    for low, high in ((0, 1), (0, 255), (-0.5, 0.5), (-1, 1), (1, -1), (1, 0)):
        found[f"dpm.pixel_range: [{low}, {high}]"] = PixelCodec((float(low),), (float(high),))
    pixels = members.reshape(-1, members.shape[-1]) / 255
    standards = [(pixels.mean(0), pixels.std(0))]
    if members.shape[-1] == 3:
        standards.append((np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])))
    for mean, std in standards:
        if (std > 0).all():
            given = f"dpm.pixel_mean: {_listed(mean)} and dpm.pixel_std: {_listed(std)}"
            found[given] = PixelCodec.standardized(mean.tolist(), std.tolist())
    return found


def _listed(values: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values) + "]"


def explained(samples: Look, unseen: Look, under: dict[str, Look]) -> str | None:
    """The range, of those that samples were drawn under, which the model's pixels have; None if none explains the samples."""
    limit = min(NEARER * samples.distance, ALIKE * unseen.distance)
    most = max(LEFT * samples.unlike, 2 * unseen.unlike)
    fitting = {
        name: look
        for name, look in under.items()
        if look.distance <= limit and (look.unlike <= most or look.distance <= COPIES * unseen.distance)
    }
    return min(fitting, key=lambda name: fitting[name].distance) if fitting else None


def look_at(artifacts: Artifacts) -> dict[str, Any]:
    """What `LOOK` holds: the `Look` at samples and unseen images, and the range that explains the samples, if one does."""
    torch.set_num_threads(artifacts.config.cluster.actor_cpus)
    store, key, sizes = artifacts.run.store, artifacts.prepare.key, artifacts.sizes
    members = Members(read_split(store, key, "member", ids=_spread(sizes["member"], COMPARED)).images)
    if sizes["calibration"]:
        others = read_split(store, key, "calibration", ids=_spread(sizes["calibration"], LOOKED_AT)).images
        unseen = members.look(others)
    else:
        unseen = members.look(members.images[:LOOKED_AT], themselves=True)
    samples = members.look(_samples(artifacts))
    name, fitting = None, samples
    if samples.unlike > UNLIKE or samples.distance > SUSPECT * unseen.distance:
        model = _model(artifacts)
        under = {}
        own = _range_of(model)
        latents = _draw(artifacts, model).latents if is_latent(model) else None
        for each, codec in other_ranges(members.images).items():
            if codec != own:
                under[each] = members.look(_in_range(artifacts, model, codec, latents))
        name = explained(samples, unseen, under)
        fitting = under[name] if name else samples
    return {"samples": asdict(samples), "unseen": asdict(unseen), "range": name, "fitting": asdict(fitting)}


def _range_of(model: Dpm) -> Codec:
    """The range that the model's pixels, or those of its VAE, are taken to have."""
    codec = getattr(model, "codec", None)
    return (codec.pixels if isinstance(codec, LatentCodec) else codec) or PixelCodec((-1.0,), (1.0,))


def _spread(size: int, count: int) -> Sequence[int]:
    """`count` ids, or all, spread over 0 … size − 1: a set may be sorted by class."""
    return np.unique(np.linspace(0, size - 1, min(size, count)).round().astype(int)).tolist()


def _samples(artifacts: Artifacts) -> np.ndarray:
    """The first images of the synthetic set, uint8 [M, H, W, C], drawn here if they do not exist."""
    if 0 in artifacts.synthetic.present():
        table = artifacts.synthetic.read(0, ["image"])
        return decode_column(table.slice(0, LOOKED_AT).column("image"))
    return _draw(artifacts, _model(artifacts)).images


def _model(artifacts: Artifacts) -> Dpm:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_dpm(artifacts.dpm.fetch(), device, code=artifacts.config.dpm.function is not None)


def _in_range(artifacts: Artifacts, model: Dpm, codec: PixelCodec, latents: np.ndarray | None) -> np.ndarray:
    """The first images of the synthetic set, with pixels in the range of `codec`; a VAE's range changes no latents."""
    with_codec(model, codec)
    if latents is None:
        return _draw(artifacts, model).images
    return to_uint8(decoded(model, torch.from_numpy(latents).to(model.device)))


def _draw(artifacts: Artifacts, model: Dpm) -> Drawn:
    """The first of the synthetic set."""
    config = artifacts.config
    conditioning = read_conditioning(config.dpm, artifacts.condition)
    settings = DrawSettings.of(config.extract, config.cluster.precision, conditioning)
    seeds = [sample_seed(config.run.seed, "synthetic", i) for i in range(LOOKED_AT)]
    return draw(model, seeds, replace(settings, batch_size=min(settings.batch_size, LOOKED_AT)))
