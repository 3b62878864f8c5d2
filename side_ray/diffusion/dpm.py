"""The interface of a diffusion model, and opening one of any registered kind.

Weights are read from safetensors only: a pickled checkpoint can run code when it is opened.
"""

from pathlib import Path
from typing import Any, Protocol, Self

import torch

from side_ray.diffusion.condition import Condition
from side_ray.diffusion.processes import NoiseProcess, Schedule
from side_ray.diffusion.spaces.codec import Codec
from side_ray.diffusion.spaces.latents import LatentCodec
from side_ray.diffusion.spaces.pixels import PixelCodec
from side_ray.errors import UserError
from side_ray.registry import REGISTRIES

Denoised = tuple[torch.Tensor, torch.Tensor]


class Dpm(Protocol):
    """What the sampler needs of a diffusion model of any kind."""

    schedule: Schedule
    """Its noise process; a `DDPMScheduler` if that is variance-preserving."""
    latent_shape: tuple[int, int, int]
    """(c, h, w) of what it diffuses, z; that of the images for a model of pixels."""
    num_classes: int | None
    """Classes of a class-conditional model, which must be given `class_labels`; None for any other, which must not. A
    text-conditioned model has an `encoder`, and its conditions of prompts, float32 [B, L, D], take their place."""
    condition: Condition | None
    """How often a class-conditional model saw each class."""
    codec: Codec | None
    """Between images and what it diffuses: a VAE, or other values of pixels; None = pixels in [−1, 1]."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of its images."""
        ...

    @property
    def device(self) -> torch.device: ...

    def eps(self, x_t: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor | None = None) -> torch.Tensor:
        """ε̂ float32 [B, C, H, W] of a variance-preserving model, for x_t float32 [B, C, H, W] and t int64 [B] in 0 … T−1."""
        ...

    def differentiable_eps(
        self, x_t: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """ε̂ as of `eps`, with autograd to x_t; t may also be float64 [B], between the trained timesteps."""
        ...

    def denoise(self, z_t: torch.Tensor, t: float, class_labels: torch.Tensor | None = None) -> Denoised:
        """(ẑ₀, ε̂), each float32 [B, C, H, W], for z_t float32 [B, C, H, W] at one time t of the process."""
        ...

    def to(self, device: torch.device | str) -> Self: ...


class VariancePreservingDpm(Dpm, Protocol):
    """A model with a noise schedule ᾱ_t."""

    alphas_cumprod: torch.Tensor
    """ᾱ_t, float64 [T], on the CPU."""
    num_train_timesteps: int


def variance_preserving(dpm: Dpm) -> VariancePreservingDpm:
    """The model, if it is variance-preserving with pixels in [−1, 1].

    Raises:
        UserError: it is not.
    """
    if getattr(dpm, "encoder", None) is not None:
        raise UserError("densities and latents are not computed for models that are conditioned on text")
    if isinstance(dpm.schedule, NoiseProcess) or getattr(dpm, "codec", None) is not None:
        what = ", not for latent models" if is_latent(dpm) else ""
        raise UserError(
            f"densities and latents are computed only for variance-preserving models of pixels in [-1, 1]{what}"
        )
    model: Any = dpm
    return model


def load_dpm(directory: Path | str, device: torch.device | str = "cpu", *, code: bool = False) -> Dpm:
    """Open a diffusion model of any kind in `denoisers`.

    Args:
        directory: a diffusers pipeline of one U-Net and one scheduler (`DDPMPipeline`, `DDIMPipeline`; in `unet/` and
            `scheduler/`, or both at its top as in early versions), a bare `UNet2DModel` directory with a
            `scheduler_config.json` beside it or in `scheduler/`, what `OptimalDpm.save` wrote, or what another registered
            kind recognizes. With a VAE in `vae/`, `vqvae/` or `movq/` it is a latent model.
        device: where to put it.
        code: whether code in the directory may be executed, as the kind `function` does: only if the user's own config names it.

    Raises:
        UserError: nothing there, only pickled weights, weights that do not fit the config, or a model of another kind.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"no diffusion model at {directory}: it is not a directory")
    kinds = REGISTRIES["dpm.denoiser"]
    for name in kinds.names:
        if kinds[name].recognizes(directory):
            if kinds[name].runs_code and not code:
                raise UserError(
                    f"the model in {directory} is Python code, which is executed only where dpm.path names it"
                )
            model: Dpm = kinds[name].load(directory, device)
            return with_codec(with_codec(model, LatentCodec.load(directory)), PixelCodec.load(directory))
    raise UserError(f"no diffusion model in {directory}: it is of none of the kinds {', '.join(kinds.names)}")


def with_codec(model: Dpm, codec: Codec | None) -> Dpm:
    """The model, in the latent space of a VAE, or of pixels (its VAE's, if it has one) in another range; None leaves it as it is.

    Raises:
        UserError: the codec is for another number of channels.
    """
    if isinstance(codec, LatentCodec):
        if codec.channels[1] != model.latent_shape[0]:
            raise UserError(
                f"the VAE has latents of {codec.channels[1]} channels, the model diffuses {model.latent_shape[0]}; they do not "
                "belong together"
            )
        model.codec = codec
    elif isinstance(codec, PixelCodec):
        if not codec.fits(model.image_shape[0]):
            raise UserError(
                f"the pixels' range has {len(codec.black)} numbers, the model {model.image_shape[0]} channels; give one "
                "for each channel, or one for all"
            )
        own = getattr(model, "codec", None)
        model.codec = codec if own is None else own.with_range(codec)
    return model


def is_latent(model: Dpm) -> bool:
    """Whether it diffuses the latents of a VAE; kinds from outside of the package may have no codec."""
    codec = getattr(model, "codec", None)
    return codec is not None and codec.latent


def latent_shape(model: Dpm) -> tuple[int, int, int]:
    """(c, h, w) of what it diffuses; kinds from outside of the package may have an image shape only."""
    return getattr(model, "latent_shape", model.image_shape)


def shape_of_images(codec: Codec | None, latent_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(C, H, W) of the images of a model that diffuses (c, h, w)."""
    return latent_shape if codec is None else codec.image_shape(latent_shape)
