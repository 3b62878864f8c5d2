"""Extrapolation from a base model to its fine-tune: ẑ_base + (1 + λ)·(ẑ_tuned − ẑ_base).

λ = 0 is the fine-tuned model. Above it, samples move along what fine-tuning added, which are the images that it was fine-tuned
on (Wu et al. 2024, FineXtract, arXiv 2410.03039, with w = 1 + λ). As classifier-free guidance it is taken in ẑ₀, which is
defined where α = 0, and in which models that output ε, v or x₀ can be compared.

It is limited to the noisy part of the process (Kynkäänniemi et al. 2024, arXiv 2404.07724, do the same with classifier-free
guidance). Where there is little noise, ẑ_tuned is the image that the sample has become and ẑ_base another one nearby, so that
extrapolation leaves the image again: with the closed forms of few images not one copy remains at λ = 1.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import torch

from side_ray.diffusion.condition.drawn import encoder_of, example
from side_ray.diffusion.dpm import Dpm, is_latent, latent_shape
from side_ray.diffusion.processes import NoiseProcess, process_of
from side_ray.diffusion.sampler import denoised
from side_ray.diffusion.spaces.given import GivenVae
from side_ray.diffusion.spaces.latents import LatentCodec, LatentStatistics
from side_ray.diffusion.spaces.pixels import PixelCodec
from side_ray.errors import UserError

KEY = "dpm.base"
SAME_LEVELS = 1e-4
"""Largest difference of α_t, and relative one of σ_t, of one noise process."""
ROUNDED = 0.01
"""Relative difference of weights that were stored in half precision; other weights differ by more."""


@dataclass(frozen=True)
class Extrapolation:
    """Extrapolation from a base model with one λ, for `draw`.

    Args:
        base: on the device of the fine-tuned model, and like it but for its weights (`check_base`).
        scale: λ.
        latents: of a latent model's own samples; None for a model of pixels.
        interval: `extract.base_interval`.
    """

    base: Dpm
    scale: float
    latents: LatentStatistics | None = None
    interval: tuple[float, float] | None = None

    def within(self) -> tuple[float, float]:
        """The interval of t/T in which it extrapolates."""
        return interval_of(process_of(self.base.schedule), self.interval)

    def guidance(self, condition: torch.Tensor | None) -> "BaseGuidance":
        """What guides a batch whose rows have this condition of the base, as of `Dpm.denoise`."""
        return BaseGuidance(self.base, condition, self.scale)


@dataclass(frozen=True)
class BaseGuidance:
    """λ·(ẑ_tuned − ẑ_base), a `ModelGuidance`. With classifier-free guidance both are those of the condition."""

    base: Dpm
    condition: torch.Tensor | None
    scale: float

    def shift(
        self, z_t: torch.Tensor, time: float, class_labels: torch.Tensor | None, z0: torch.Tensor
    ) -> torch.Tensor:
        level = process_of(self.base.schedule).level(time)
        return self.scale * (z0 - denoised(self.base, z_t, time, level, self.condition)[0])


def interval_of(process: NoiseProcess, interval: tuple[float, float] | None) -> tuple[float, float]:
    """The interval of t/T in which samples are extrapolated, by default from the first time with σ_t ≥ α_t on."""

    def noisy(t: int) -> bool:
        signal, sigma = process.level(t)
        return sigma >= signal

    first = bisect_left(range(process.timesteps), True, key=noisy)
    return (first / process.timesteps, 1.0) if interval is None else interval


def check_base(tuned: Dpm, base: Dpm) -> None:
    """Check that both models diffuse the same, by the same process and under the same kind of condition, and are two.

    Raises:
        UserError: they differ in that, or do not differ at all. The message says in what.
    """
    for what, one, other in (
        ("diffuses", _space(base), _space(tuned)),
        ("takes", _condition(base), _condition(tuned)),
        ("has", *_processes(base, tuned)),
    ):
        if one != other:
            raise UserError(
                f"it {what} {one}, and dpm.path {other}; give the model that dpm.path was fine-tuned from", KEY
            )
    if isinstance(base.codec, LatentCodec) and isinstance(tuned.codec, LatentCodec):
        _check_encoders(base.codec, tuned.codec, tuned.image_shape)
    if not is_latent(tuned) and (base.codec or _PIXELS) != (tuned.codec or _PIXELS):
        raise UserError(
            "its pixels have another range than those of dpm.path; models of one range can be compared", KEY
        )
    if _same(tuned, base):
        raise UserError("it makes the same as dpm.path, bit by bit; give the model before it was fine-tuned", KEY)


_PIXELS = PixelCodec((-1.0,), (1.0,))


def _space(model: Dpm) -> str:
    channels, height, width = latent_shape(model)
    return f"{'latents' if is_latent(model) else 'pixels'} of {channels} × {height} × {width}"


def _condition(model: Dpm) -> str:
    if encoder_of(model) is not None:
        return "prompts"
    return "no condition" if model.num_classes is None else f"{model.num_classes} classes"


def _processes(base: Dpm, tuned: Dpm) -> tuple[str, str]:
    """The noise processes of both, in words that are equal where they are the same."""
    one, other = process_of(base.schedule), process_of(tuned.schedule)
    names = [f"the noise process {type(each).__name__} of {each.timesteps} times" for each in (one, other)]
    if names[0] == names[1]:
        first, second = _levels(one), _levels(other)
        apart = ((first - second).abs() / second.abs().clamp(min=1)).max()
        if apart > SAME_LEVELS:
            names = [f"a noise schedule up to σ/α = {_last(each):.4g}" for each in (first, second)]
            if names[0] == names[1]:
                names[1] += ", by other levels"
    return names[0], names[1]


def _levels(process: NoiseProcess) -> torch.Tensor:
    """α and σ at 101 times from the image to the noise, float64 [2, 101]."""
    times = torch.linspace(0, process.timesteps - 1, 101).round().long()
    return torch.tensor([process.level(int(time)) for time in times], dtype=torch.float64).T


def _last(levels: torch.Tensor) -> float:
    return float(levels[1, -1] / levels[0, -1])


def _check_encoders(base: LatentCodec, tuned: LatentCodec, shape: tuple[int, int, int]) -> None:
    """Raise UserError if the same latents are other images, of `shape` (C, H, W). A VAE whose decoder alone was fine-tuned has
    the same ones."""
    if any(isinstance(each.vae, GivenVae) for each in (base, tuned)):
        _check_encoded(base, tuned, shape)
        return
    names = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
    for name in names:
        one, other = (each.vae.config.get(name) for each in (base, tuned))
        if one != other:
            raise UserError(f"its VAE has {name} {one}, and that of dpm.path {other}; their latents differ", KEY)
    parts: list[dict[str, Any]] = [
        {name: value for name, value in each.vae.state_dict().items() if not name.startswith(("decoder", "post_quant"))}
        for each in (base, tuned)
    ]
    first, second = parts
    if first.keys() != second.keys():
        raise UserError("its VAE is of another architecture than that of dpm.path; their latents differ", KEY)
    for name, value in first.items():
        other = second[name]
        if value.shape != other.shape or float((value - other).float().norm()) > ROUNDED * float(other.float().norm()):
            raise UserError(f"its VAE has other weights than that of dpm.path ({name}); their latents differ", KEY)


def _check_encoded(base: LatentCodec, tuned: LatentCodec, shape: tuple[int, int, int]) -> None:
    """As `_check_encoders`, by what both make of some images: the weights of a codec that a function gives are not known."""
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    if (base.channels, base.factor) == (tuned.channels, tuned.factor):
        one, other = (each.encode(images) for each in (base, tuned))
        if float((one - other).norm()) <= ROUNDED * float(other.norm()):
            return
    raise UserError("its codec encodes images otherwise than that of dpm.path; their latents differ", KEY)


def _same(tuned: Dpm, base: Dpm) -> bool:
    """Whether both models make the same of noise, which leaves nothing to extrapolate."""
    process, z_t = (
        process_of(tuned.schedule),
        torch.randn(1, *latent_shape(tuned), generator=torch.Generator().manual_seed(0)),
    )
    for share in (0.2, 0.5, 0.8):
        time = int(share * (process.timesteps - 1))
        level = process.level(time)
        noisy = (level[0] ** 2 + level[1] ** 2) ** 0.5 * z_t
        one, other = (
            denoised(each, noisy.to(each.device), time, level, example(each))[0].cpu() for each in (tuned, base)
        )
        if not torch.equal(one, other):
            return False
    return True
