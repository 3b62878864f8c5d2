"""Diffusion models around diffusers' `UNet2DModel`: making, opening and writing them, and their deepest latent."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors import SafetensorError

from side_ray.config.dpm import MOST_BLOCKS, MOST_LAYERS
from side_ray.diffusion.condition import Condition
from side_ray.diffusion.denoisers.layout import INDEX, PICKLED, REFUSED, Layout, check_alone, names_in
from side_ray.diffusion.denoisers.network import NetworkDpm
from side_ray.diffusion.files import check_finite, read_json
from side_ray.diffusion.processes import Schedule, load_process
from side_ray.errors import UserError, first_line

MOST_PARAMETERS = 10**10
"""Of a U-Net that is trained here or imported."""

REFUSALS = (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, AttributeError, NameError)
"""What diffusers raises for a config that makes no U-Net."""


class UnetDpm(NetworkDpm):
    """A `UNet2DModel` with its noise process; whatever it predicts comes out as (ẑ₀, ε̂).

    Args:
        unet: in eval mode. With 2·C output channels (learned variance) the first C are taken.
        schedule: its noise process, which says what the U-Net outputs.
        condition: how often a class-conditional U-Net saw each class; by default all equally often.

    Raises:
        UserError: the U-Net's config has no image size, its channels do not fit, or its class embedding takes no class indices.
    """

    def __init__(self, unet: UNet2DModel, schedule: Schedule, condition: Condition | None = None) -> None:
        config = unet.config
        channels, size = config["in_channels"], config["sample_size"]
        sides = [size, size] if isinstance(size, int) else size
        if not isinstance(sides, (list, tuple)) or [type(side) for side in sides] != [int, int]:
            raise UserError(f"the U-Net's config must give sample_size, the images' [height, width], found {size!r}")
        if config["out_channels"] not in (channels, 2 * channels):
            raise UserError(f"a U-Net from {channels} to {config['out_channels']} channels is no diffusion model")
        if config["class_embed_type"] is not None:
            raise UserError(f"class_embed_type {config['class_embed_type']!r} is not supported, only num_class_embeds")
        super().__init__(schedule, (channels, *sides), config["num_class_embeds"], condition)
        self.unet = unet

    @property
    def device(self) -> torch.device:
        return self.unet.device

    def to(self, device: torch.device | str) -> Self:
        """Move the U-Net; returns itself."""
        self.unet.to(device)
        return self

    def output(self, x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor | None) -> torch.Tensor:
        if self.unet.training:
            raise ValueError("the U-Net is in training mode: call .eval() before sampling")
        if (class_labels is None) != (self.num_classes is None):
            raise ValueError("class labels go with a class-conditional U-Net (num_class_embeds), and only with one")
        output: torch.Tensor = self.unet(x, t, class_labels=class_labels, return_dict=False)[0]
        return output.float()[:, : self.image_shape[0]]


def load_unet_dpm(directory: Path, device: torch.device | str = "cpu") -> UnetDpm:
    """Open a diffusers pipeline of one U-Net and one scheduler, or a bare U-Net directory (layouts: see `load_dpm`).

    Raises:
        UserError: a file is missing or damaged, the weights are pickled, or the pipeline has other components.
    """
    if (directory / INDEX).exists():
        _check_index(directory / INDEX)
    else:
        check_alone(path.name for path in directory.iterdir() if path.is_dir())
    layout = Layout.of(names_in(directory))
    unet = _load_unet(directory / layout.unet, layout.variant)
    if not (directory / layout.scheduler / "scheduler_config.json").exists():
        raise UserError(
            f"{directory} has a U-Net and no scheduler_config.json, like a training's checkpoint: put that of the finished "
            "pipeline into it as scheduler/scheduler_config.json"
        )
    schedule = load_process(directory / layout.scheduler)
    classes = unet.config["num_class_embeds"]
    return UnetDpm(unet, schedule, None if classes is None else Condition.load(directory, classes)).to(device)


def save_pipeline(unet: UNet2DModel, scheduler_config: Mapping[str, Any], directory: Path | str) -> None:
    """Write a plain `DDPMPipeline` directory (model_index.json, unet/, scheduler/; safetensors), which diffusers opens.

    Args:
        unet: the model, EMA weights already in place.
        scheduler_config: `schedule.config`.
        directory: made if absent.
    """
    pipeline = DDPMPipeline(unet, DDPMScheduler.from_config(dict(scheduler_config)))
    pipeline.save_pretrained(directory, safe_serialization=True)


def new_unet(config: Mapping[str, Any], image_shape: tuple[int, int, int]) -> UNet2DModel:
    """An untrained U-Net for images of a shape.

    Args:
        config: arguments of `UNet2DModel` (`block_out_channels`, `layers_per_block`, `num_class_embeds`, …). Channels
            and size come from `image_shape`; without block types every level is a plain convolutional one.
        image_shape: (C, H, W); H and W must be divisible by 2^(levels−1).

    Raises:
        UserError: an unknown argument, a value that diffusers refuses, or a size that cannot be halved often enough.
    """
    channels, height, width = image_shape
    arguments: dict[str, Any] = {"block_out_channels": (32, 64), "layers_per_block": 1} | dict(config)
    widths = arguments["block_out_channels"]
    if not isinstance(widths, (list, tuple)) or not widths:
        raise UserError(f"block_out_channels must list the width of each U-Net level, found {widths!r}")
    levels = len(widths)
    arguments.setdefault("down_block_types", ("DownBlock2D",) * levels)
    arguments.setdefault("up_block_types", ("UpBlock2D",) * levels)
    halvings = 2 ** (levels - 1)
    if height % halvings or width % halvings:
        raise UserError(f"{levels} U-Net levels need sides divisible by {halvings}, the images are {height}×{width}")

    def make() -> UNet2DModel:
        return UNet2DModel(sample_size=(height, width), in_channels=channels, out_channels=channels, **arguments)

    try:
        if (parameters := _parameters(make)) > MOST_PARAMETERS:
            raise UserError(f"this U-Net has {parameters:,} parameters, more than {MOST_PARAMETERS:,}")
        return make()
    except REFUSALS as error:
        raise UserError(f"diffusers refuses this U-Net: {first_line(error)}") from error


def _parameters(make: Callable[[], UNet2DModel]) -> int:
    """How many parameters the U-Net that `make` returns has. Allocates nothing; raises what `make` does, see `REFUSALS`."""
    with torch.device("meta"):
        return sum(each.numel() for each in make().parameters())


def _check_size(config: Mapping[str, Any], directory: Path) -> None:
    """Raise UserError if the U-Net of an imported config cannot be made, is too large, or needs more weights than there are."""
    known = inspect.signature(UNet2DModel).parameters
    where, stored = directory / "config.json", sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    try:
        parameters = _parameters(lambda: UNet2DModel(**{name: config[name] for name in known if name in config}))
    except REFUSALS as error:
        raise UserError(f"{where}: diffusers refuses this U-Net: {first_line(error)}") from error
    if parameters > MOST_PARAMETERS:
        raise UserError(f"{where}: this U-Net has {parameters:,} parameters, more than {MOST_PARAMETERS:,}")
    if parameters > stored:  # no format takes less than a byte for one
        raise UserError(
            f"the weights in {directory} do not fit config.json: {stored:,} bytes for {parameters:,} parameters"
        )


@torch.no_grad()
def middle_block(
    dpm: UnetDpm, x_t: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor | None = None
) -> torch.Tensor:
    """The output of the U-Net's middle block, averaged over its positions. Not for two threads on one U-Net at a time.

    Args:
        dpm: a U-Net; the closed-form DPM has no such block.
        x_t: float32 [B, C, H, W].
        t: int64 [B] in 0 … T−1.
        class_labels: int64 [B] for a class-conditional U-Net.

    Returns:
        float32 [B, channels of the deepest level].
    """
    found: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        found.append(output.float().mean(dim=(2, 3)))

    handle = dpm.unet.mid_block.register_forward_hook(keep)
    try:
        dpm.eps(x_t, t, class_labels)
    finally:
        handle.remove()
    return found[0]


def _check_index(path: Path) -> None:
    """Refuse pipelines with more than a pixel-space U-Net and a scheduler: latent or text-to-image models."""
    index = read_json(path)
    components = {name: value for name, value in index.items() if not name.startswith("_")}
    if set(components) != {"unet", "scheduler"} or components["unet"] != ["diffusers", "UNet2DModel"]:
        found = ", ".join(sorted(components)) or "nothing"
        raise UserError(f"{path}: {index.get('_class_name', 'a pipeline')} of {found}: {REFUSED}")


def _load_unet(directory: Path, variant: str) -> UNet2DModel:
    if not (directory / "config.json").exists():
        raise UserError(f"no U-Net in {directory}: config.json is missing")
    if not any(directory.glob("*.safetensors")):
        if pickled := sorted(p.name for p in directory.iterdir() if p.suffix in PICKLED):
            raise UserError(
                f"{directory} has only pickled weights ({pickled[0]}), which can run code when opened: convert them to "
                "safetensors where you trust them, with UNet2DModel.from_pretrained(…).save_pretrained(…)"
            )
        raise UserError(f"no weights in {directory}: expected diffusion_pytorch_model.safetensors")
    given = read_json(directory / "config.json")
    for name, most in (
        ("block_out_channels", MOST_BLOCKS),
        ("down_block_types", MOST_BLOCKS),
        ("up_block_types", MOST_BLOCKS),
    ):
        if isinstance(given.get(name), list) and len(given[name]) > most:
            raise UserError(
                f"{directory / 'config.json'}: {name} has {len(given[name]):,} entries, more than any U-Net ({most})"
            )
    if not isinstance(given.get("layers_per_block", 1), int) or given.get("layers_per_block", 1) > MOST_LAYERS:
        raise UserError(f"{directory / 'config.json'}: layers_per_block must be a number up to {MOST_LAYERS}")
    if given.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise UserError(f"{directory / 'config.json'} is of a {given['_class_name']}: {REFUSED}")
    _check_size(given, directory)
    try:
        unet, info = UNet2DModel.from_pretrained(
            directory,
            variant=variant or None,
            use_safetensors=True,
            local_files_only=True,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, SafetensorError, *REFUSALS) as error:
        raise UserError(f"the U-Net in {directory} cannot be loaded: {first_line(error)}") from error
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if wrong:
        raise UserError(f"the weights in {directory} do not fit config.json: {len(wrong)} tensors, first {wrong[0]}")
    check_finite(unet.state_dict(), directory)
    return unet
