"""What text-conditioned models share: a network, its noise process and the text encoders of its prompts."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch

from side_ray.diffusion.condition.prompts import PromptEncoder
from side_ray.diffusion.denoisers.layout import SIZE, names_in, vae_in
from side_ray.diffusion.denoisers.network import NetworkDpm
from side_ray.diffusion.files import read_json
from side_ray.diffusion.processes import Schedule
from side_ray.errors import UserError


class TextDpm(NetworkDpm):
    """A network with its noise process and text encoders. Its condition is one tensor, float32 [B, L, D], see `encoder`.

    Args:
        network: of diffusers, in eval mode. Of its output the first c channels are taken.
        schedule: its noise process.
        encoder: of the prompts.
        latent_shape: (c, h, w) of what it diffuses.
    """

    def __init__(
        self, network: Any, schedule: Schedule, encoder: PromptEncoder, latent_shape: tuple[int, int, int]
    ) -> None:
        super().__init__(schedule, latent_shape)
        self.network, self.encoder = network, encoder

    @property
    def device(self) -> torch.device:
        found: torch.device = self.network.device
        return found

    def to(self, device: torch.device | str) -> Self:
        """Move the network and the text encoders; returns itself."""
        self.network.to(device)
        self.encoder.to(device)
        return self

    def output(self, x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor | None) -> torch.Tensor:
        """As of `NetworkDpm`; `class_labels` are conditions of prompts, float32 [B, L, D]."""
        if self.network.training:
            raise ValueError("the network is in training mode: call .eval() before sampling")
        if class_labels is None:
            raise ValueError("a text-conditioned model needs the conditions of prompts")
        return self.predicted(x, t, class_labels).float()[:, : self.latent_shape[0]]

    @abstractmethod
    def pipeline(self) -> Any:
        """diffusers' pipeline of its network and text encoders, which adds LoRA weights to them; slow to import.

        Raises:
            UserError: diffusers adds none to models of this kind.
        """

    @abstractmethod
    def predicted(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """What the network outputs, [B, C, h, w], for conditions float32 [B, L, D]."""


def sides_of(directory: Path, own: Any, multiple: int = 1) -> tuple[int, int]:
    """Height and width of what a model diffuses: of the image size in its directory's `size.json`, else the network's own.

    Args:
        own: the network's `sample_size`.
        multiple: of which both must be one.

    Raises:
        UserError: the network has none, or the asked one does not divide.
    """
    sides = [own, own] if isinstance(own, int) else own
    if not isinstance(sides, (list, tuple)) or [type(side) for side in sides] != [int, int]:
        raise UserError(
            f"the network's config must give sample_size, [height, width] of what it diffuses, found {own!r}"
        )
    if (directory / SIZE).exists():
        asked, factor = read_json(directory / SIZE).get("image_size"), _factor(directory)
        if not isinstance(asked, int) or asked < 1 or asked % (factor * multiple):
            raise UserError(
                f"this model makes images whose sides are multiples of {factor * multiple}, not {asked}",
                "dpm.image_size",
            )
        sides = [asked // factor] * 2
    return sides[0], sides[1]


def _factor(directory: Path) -> int:
    """How many times larger an image is than its latents by the VAE's config, as diffusers' pipelines take it."""
    if not (vae := vae_in(names_in(directory))):
        return 1
    blocks = read_json(directory / vae / "config.json").get("block_out_channels")
    return 2 ** (len(blocks) - 1) if isinstance(blocks, list) and len(blocks) else 8


def check_widths(what: str, made: int, taken: Sequence[int]) -> None:
    """Raise UserError unless a network takes as many numbers as its text encoders make."""
    if any(each != made for each in taken):
        numbers = ", ".join(str(each) for each in dict.fromkeys(taken))
        raise UserError(f"{what} of {made} numbers, the network takes {numbers}; they do not belong together")
