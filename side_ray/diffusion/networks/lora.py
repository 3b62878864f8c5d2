"""LoRA weights (Hu et al. 2021) of a text-conditioned model, added to its own: W + weight · B·A."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from side_ray.diffusion.denoisers.layout import LORA
from side_ray.diffusion.files import check_finite, read_json
from side_ray.diffusion.networks.text.base import TextDpm
from side_ray.errors import UserError, first_line


def add_loras(model: TextDpm, directory: Path) -> None:
    """Add the LoRA weights in a model's directory to those of its network and text encoders, one file after the other.

    Raises:
        UserError: a file is damaged, or is for another model.
    """
    path = directory / LORA
    weights = read_json(path).get("weights")
    if not isinstance(weights, list) or not all(isinstance(each, (int, float)) for each in weights):
        raise UserError(f"{path} must give the list `weights`")
    for number, weight in enumerate(weights):
        _add(model, directory / "lora" / f"{number}.safetensors", float(weight))


def _add(model: TextDpm, path: Path, weight: float) -> None:
    pipeline = model.pipeline()
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
    try:
        found = pipeline.lora_state_dict(
            str(path.parent), weight_name=path.name, local_files_only=True, use_safetensors=True
        )
        tensors = found[0] if isinstance(found, tuple) else found
        check_finite(tensors, path)
        pipeline.load_lora_weights(
            str(path.parent), weight_name=path.name, local_files_only=True, use_safetensors=True, adapter_name="lora"
        )
        loaded = {name: _tensors_in(part) for name, part in parts.items()}
        if not tensors or sum(loaded.values()) != len(tensors):
            raise UserError(
                f"{path}: {len(tensors) - sum(loaded.values()):,} of {len(tensors):,} tensors belong to no layer of the model; "
                "give LoRA weights that were trained on it"
            )
        changed = [name for name, count in loaded.items() if count]
        pipeline.fuse_lora(components=changed, lora_scale=weight, safe_fusing=True, adapter_names=["lora"])
        pipeline.unload_lora_weights()
    except ImportError as error:
        raise UserError(
            f"LoRA weights need the extra text: pip install 'side-ray[text]' ({first_line(error)})"
        ) from error
    except (OSError, SafetensorError, TypeError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise UserError(f"the LoRA weights {path} cannot be added to the model: {first_line(error)}") from error


def _tensors_in(network: Any) -> int:
    """How many tensors of LoRA a network has."""
    return sum(".lora_" in name or ".lokr_" in name for name, _ in network.named_parameters())
