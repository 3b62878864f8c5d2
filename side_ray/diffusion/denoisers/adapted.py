"""A model of any library, as a function of the user's describes it."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from side_ray.diffusion.condition import Condition
from side_ray.diffusion.denoisers.network import NetworkDpm
from side_ray.diffusion.dpm import with_codec
from side_ray.diffusion.processes import Schedule, load_process
from side_ray.diffusion.processes.base import NoiseProcess
from side_ray.diffusion.processes.table import PREDICTIONS, Table
from side_ray.diffusion.spaces.given import codec_of
from side_ray.diffusion.spaces.pixels import PixelCodec
from side_ray.errors import UserError

if TYPE_CHECKING:  # diffusers takes seconds to import: only where a model is made or opened
    from diffusers import DDPMScheduler


@dataclass(frozen=True)
class Model:
    """What the function returns: this, or a dict of the same keys.

    Args:
        network: a module or callable, `network(x, t)` with x float32 [B, C, H, W] and t [B], or `network(x, t, labels)` with
            int64 labels [B] if there are `classes`. It returns what it predicts, [B, C, H, W] (further channels are left out),
            or an object whose `sample` that is.
        shape: (C, H, W) of what it diffuses.
        predicts: `epsilon`, `v_prediction` (α·ε − σ·x₀), `sample` (x₀), `flow` (ε − x₀) or `score`; None = as the scheduler says.
        scheduler: a diffusers scheduler, which also says how the network is told the noise level.
        alphas_cumprod: in place of it ᾱ_t, [T]: a variance-preserving process whose network is told t, 0 … T−1.
        alphas, sigmas: in place of both α_t and σ_t, [T] each, from the image to the noise.
        tell: with these, what the network is told: the `index` t, `sigma`, or a function of (t, σ).
        classes: number of classes of a class-conditional network.
        pixel_range: the values of black and white.
        clip: whether ẑ₀ is clamped to the range of pixels; by default with `alphas_cumprod` and as the scheduler says, but never
            with a codec.
        codec: of a model of latents, see `spaces.given.codec_of`; `shape` is then that of the latents.
    """

    network: Callable[..., Any]
    shape: Sequence[int]
    predicts: str | None = None
    scheduler: Any = None
    alphas_cumprod: Any = None
    alphas: Any = None
    sigmas: Any = None
    tell: str | Callable[[float, float], float] = "index"
    classes: int | None = None
    pixel_range: Sequence[float] | None = None
    clip: bool | None = None
    codec: Any = None

    @classmethod
    def of(cls, given: Any) -> "Model":
        """What a function returned.

        Raises:
            UserError: it is something else, or a value is of no use.
        """
        if isinstance(given, Mapping):
            known = [each.name for each in fields(cls)]
            if unknown := sorted(set(given) - set(known)):
                raise UserError(f"returns the key {unknown[0]!r}, which is unknown; known are {', '.join(known)}")
            if missing := [name for name in ("network", "shape") if name not in given]:
                raise UserError(f"returns no {missing[0]!r}; a model needs its network, shape and noise process")
            given = cls(**given)
        if not isinstance(given, cls):
            raise UserError(
                f"returns a {type(given).__name__}; return a dict with network, shape and the noise process"
            )
        if not callable(given.network):
            raise UserError("returns a network that cannot be called")
        if len(given.shape) != 3 or not all(isinstance(side, int) and side > 0 for side in given.shape):
            raise UserError(f"returns the shape {tuple(given.shape)}; it must be (channels, height, width)")
        if given.predicts is not None and given.predicts not in PREDICTIONS:
            raise UserError(f"returns predicts {given.predicts!r}; it must be one of {', '.join(PREDICTIONS)}")
        return given

    def schedule(self) -> Schedule:
        """Its noise process.

        Raises:
            UserError: there is none, or several.
        """
        named = [self.scheduler is not None, self.alphas_cumprod is not None, self.alphas is not None]
        if sum(named) != 1 or (self.alphas is None) != (self.sigmas is None):
            raise UserError("must return one noise process: a scheduler, or alphas_cumprod, or alphas and sigmas")
        if self.scheduler is not None:
            return self._of_scheduler()
        if self.predicts is None:
            raise UserError("must return what the network predicts, as predicts")
        if self.alphas is not None:
            return Table(self.alphas, self.sigmas, self.predicts, self.tell, bool(self._clips))
        if self.predicts in ("flow", "score"):
            levels = torch.as_tensor(self.alphas_cumprod).double().cpu()
            return Table(levels.sqrt(), (1 - levels).sqrt(), self.predicts, clip=self._clips is not False)
        return variance_preserving_schedule(self.alphas_cumprod, self.predicts, self._clips is not False)

    @property
    def _clips(self) -> bool | None:
        # Latents have no range of their own, and a scheduler clips by default.
        return False if self.clip is None and self.codec is not None else self.clip

    def _of_scheduler(self) -> Schedule:
        with tempfile.TemporaryDirectory() as directory:
            self.scheduler.save_pretrained(directory)
            schedule = load_process(Path(directory))
        changes: dict[str, Any] = {} if self._clips is None else {"clip_sample": self._clips}
        if not isinstance(schedule, NoiseProcess):
            if self.predicts in ("flow", "score"):
                raise UserError(f"predicts {self.predicts} does not go with a {type(self.scheduler).__name__}")
            changes |= {} if self.predicts is None else {"prediction_type": self.predicts}
            schedule.register_to_config(**changes)
        elif self.predicts is not None:
            raise UserError(f"{type(self.scheduler).__name__} says what its network predicts; leave out predicts")
        return schedule


def variance_preserving_schedule(alphas_cumprod: Any, predicts: str, clip: bool) -> "DDPMScheduler":
    """The schedule of ᾱ_t, [T], decreasing in (0, 1).

    Raises:
        UserError: it does not decrease, or leaves (0, 1).
    """
    from diffusers import DDPMScheduler

    levels = torch.as_tensor(alphas_cumprod).double().flatten().cpu()
    if len(levels) < 2 or not bool((levels.diff() < 0).all() and levels[0] < 1 and levels[-1] > 0):
        raise UserError("alphas_cumprod must decrease from the image to the noise, strictly between 1 and 0")
    betas = 1 - levels / torch.cat([torch.ones(1, dtype=torch.float64), levels[:-1]])
    schedule = DDPMScheduler(len(levels), trained_betas=betas.tolist(), prediction_type=predicts, clip_sample=clip)
    schedule.alphas_cumprod = levels.float()  # not the rounded product
    return schedule


class AdaptedDpm(NetworkDpm):
    """A network of the user's."""

    def __init__(self, model: Model, condition: Condition | None) -> None:
        channels, height, width = model.shape
        super().__init__(model.schedule(), (channels, height, width), model.classes, condition)
        self.network, self._device = model.network, torch.device("cpu")
        if isinstance(self.network, torch.nn.Module):
            self.network.eval().requires_grad_(False)
        if model.codec is not None:
            with_codec(self, codec_of(model.codec, self.latent_shape))
        if model.pixel_range is not None and tuple(model.pixel_range) != (-1, 1):
            black, white = model.pixel_range
            with_codec(self, PixelCodec((float(black),), (float(white),)))

    @property
    def device(self) -> torch.device:
        return self._device

    def to(self, device: torch.device | str) -> "AdaptedDpm":
        """Move the network, if it can be moved; returns itself."""
        self._device = torch.device(device)
        if hasattr(self.network, "to"):
            self.network = self.network.to(device)
        return self

    def output(self, x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor | None) -> torch.Tensor:
        if (class_labels is None) != (self.num_classes is None):
            raise ValueError("class labels go with a class-conditional network, and only with one")
        found = self.network(x, t) if class_labels is None else self.network(x, t, class_labels)
        found = found if isinstance(found, torch.Tensor) else found.sample
        if found.shape[:1] + found.shape[2:] != x.shape[:1] + x.shape[2:] or found.shape[1] < x.shape[1]:
            raise UserError(f"the network makes {tuple(found.shape)} of {tuple(x.shape)}", "dpm.path")
        return found.float()[:, : self.latent_shape[0]]
