"""DiT's transformer (Peebles & Xie 2023) as a diffusion model."""

from pathlib import Path
from typing import Self

import torch
from diffusers import DiTTransformer2DModel

from side_ray.diffusion.condition import FILE, Condition
from side_ray.diffusion.denoisers.layout import DIT_CLASSES, INDEX, TRANSFORMER, Layout, names_in
from side_ray.diffusion.denoisers.network import NetworkDpm
from side_ray.diffusion.networks.loading import check_index, check_table, load_network, load_scheduler, require_vae
from side_ray.diffusion.processes import Schedule
from side_ray.errors import UserError

TABLE = {"sample_size": 32, "patch_size": 2, "num_attention_heads": 16, "attention_head_dim": 72}
"""Defaults of the settings that its table of positions is made of."""


class DitDpm(NetworkDpm):
    """A `DiTTransformer2DModel` with its noise process.

    Its classes are 0 … N−1, and N is the null class of classifier-free guidance, which no sample is drawn with.

    Args:
        transformer: in eval mode. With 2·c output channels (learned variance) the first c are taken.
        schedule: its noise process.
        condition: how often it saw each of the N + 1 classes; by default all but the null class equally often.

    Raises:
        UserError: its channels do not fit.
    """

    def __init__(
        self, transformer: DiTTransformer2DModel, schedule: Schedule, condition: Condition | None = None
    ) -> None:
        config = transformer.config
        channels, size, classes = config["in_channels"], config["sample_size"], config["num_embeds_ada_norm"]
        if transformer.out_channels not in (channels, 2 * channels):
            raise UserError(
                f"a transformer from {channels} to {transformer.out_channels} channels is no diffusion model"
            )
        super().__init__(schedule, (channels, size, size), classes + 1, condition or Condition((1,) * classes + (0,)))
        self.transformer, self.null_class = transformer, classes

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    def to(self, device: torch.device | str) -> Self:
        """Move the transformer; returns itself."""
        self.transformer.to(device)
        return self

    def output(self, x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor | None) -> torch.Tensor:
        if self.transformer.training:
            raise ValueError("the transformer is in training mode: call .eval() before sampling")
        if class_labels is None:
            raise ValueError("a DiT needs class labels")
        found: torch.Tensor = self.transformer(x, timestep=t, class_labels=class_labels, return_dict=False)[0]
        return found.float()[:, : self.latent_shape[0]]


def load_dit(directory: Path) -> DitDpm:
    """Open the transformer and scheduler of a `DiTPipeline` directory, with or without `model_index.json`.

    Raises:
        UserError: a file is missing or damaged, or the pipeline has other components.
    """
    if (directory / INDEX).exists():
        check_index(directory / INDEX, TRANSFORMER, DIT_CLASSES)
    require_vae(directory)
    layout = Layout.of(names_in(directory), networks=(TRANSFORMER,))
    path = directory / TRANSFORMER
    check_table(path / "config.json", "DiT", TABLE)
    transformer = load_network(path, "transformer", (DiTTransformer2DModel,), layout.variant, DIT_CLASSES[1:])
    schedule = load_scheduler(directory, layout)
    classes = transformer.config["num_embeds_ada_norm"] + 1
    return DitDpm(transformer, schedule, Condition.load(directory, classes) if (directory / FILE).exists() else None)
