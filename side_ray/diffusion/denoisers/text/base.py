"""What kinds of text-conditioned models share."""

import re
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from side_ray.diffusion.denoisers.base import ModelKind
from side_ray.diffusion.denoisers.layout import LORA, NETWORKS, Layout, text_files

if TYPE_CHECKING:
    import torch

    from side_ray.config import DpmSection
    from side_ray.diffusion.dpm import Dpm
    from side_ray.diffusion.networks.text.base import TextDpm


class TextKind(ModelKind):
    """A directory with a network, a scheduler, a VAE, and tokenizers with text encoders, with or without `model_index.json`."""

    takes_size = True
    networks: ClassVar[Sequence[str]] = NETWORKS
    """Where its network may be."""

    @classmethod
    def config_of(cls, directory: Path) -> dict[str, Any]:
        """The network's `config.json`; empty where there is none."""
        from side_ray.diffusion.files import read_json

        paths = [path for name in cls.networks if (path := directory / name / "config.json").exists()]
        return read_json(paths[0]) if paths else {}

    @classmethod
    def files(cls, names: Sequence[str], dpm: "DpmSection") -> list[str]:
        own = [name for name in names if LORA in names and re.fullmatch(r"lora/\d+\.safetensors", name)]
        layout = Layout.of(names, dpm.variant, dpm.weights == "ema", cls.networks)
        return [*layout.files, *text_files(names, dpm.variant), *own]

    @classmethod
    @abstractmethod
    def open(cls, directory: Path) -> "TextDpm":
        """The model without LoRA weights. Raises what `load` does."""

    @classmethod
    def load(cls, directory: Path, device: "torch.device | str") -> "Dpm":
        from side_ray.diffusion.networks.text.encoders import require_transformers

        require_transformers()
        model = cls.open(directory)
        if (directory / LORA).exists():
            from side_ray.diffusion.networks.lora import add_loras

            add_loras(model, directory)
        return model.to(device)
