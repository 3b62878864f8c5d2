"""Opening the parts of a diffusers pipeline from its directory: safetensors only, with weights that fit their config."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from side_ray.config.dpm import MOST_BLOCKS, MOST_LAYERS
from side_ray.diffusion.denoisers.layout import PICKLED, REFUSED, VAES, Layout, names_in, vae_in
from side_ray.diffusion.files import check_finite, read_json
from side_ray.diffusion.processes import Schedule, load_process
from side_ray.diffusion.processes.base import NoiseProcess
from side_ray.diffusion.processes.flow import Flow
from side_ray.errors import UserError, first_line

if TYPE_CHECKING:  # diffusers takes seconds to import: only where a model is made or opened
    from diffusers import ModelMixin

LISTS = (
    "block_out_channels",
    "down_block_types",
    "up_block_types",
    "encoder_block_out_channels",
    "decoder_block_out_channels",
    "num_encoder_blocks",
    "num_decoder_blocks",
)
"""Settings with one entry for each block."""
UNUSED = ("safety_checker", "feature_extractor")
"""Parts of a pipeline that change nothing, or only refuse images."""
MOST_WIDTH = 2**20
"""The largest number in a config, which sizes of layers and tables come from."""
MOST_TRANSFORMER_LAYERS = 256
MOST_PARAMETERS = 2 * 10**10
"""Of a network that is trained here or imported."""
REFUSALS = (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, AttributeError, NameError)
"""What diffusers raises for a config that makes no network."""


def load_network(
    directory: Path, title: str, classes: Sequence[type["ModelMixin"]], variant: str = "", aliases: Sequence[str] = ()
) -> Any:
    """Open a network, in eval mode and float32, without a look at any hub.

    Args:
        directory: its `config.json` and safetensors.
        title: its name in messages, such as `U-Net`.
        classes: what it may be; the first one if its config names no class.
        variant: of the weights, for example `fp16`; "" for those without.
        aliases: other names of the first class.

    Raises:
        UserError: a file is missing or damaged, the weights are pickled, hold NaN or do not fit the config, or it is of another
            class.
    """
    path = directory / "config.json"
    if not path.exists():
        raise UserError(f"no {title} in {directory}: config.json is missing")
    if not any(directory.glob("*.safetensors")):
        if pickled := sorted(p.name for p in directory.iterdir() if p.suffix in PICKLED):
            raise UserError(
                f"{directory} has only pickled weights ({pickled[0]}), which can run code when opened: convert them to "
                f"safetensors where you trust them, with {classes[0].__name__}.from_pretrained(…).save_pretrained(…)"
            )
        raise UserError(f"no weights in {directory}: expected diffusion_pytorch_model.safetensors")
    given = read_json(path)
    check_size(given, path, title)
    known = {each.__name__: each for each in classes} | dict.fromkeys(aliases, classes[0])
    name = given.get("_class_name", classes[0].__name__)
    if name not in known:
        raise UserError(f"{path} is of a {name}: {REFUSED}")
    _check_parameters(known[name], given, path, title)
    try:
        network, info = known[name].from_pretrained(
            directory,
            variant=variant or None,
            use_safetensors=True,
            local_files_only=True,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, SafetensorError, *REFUSALS) as error:
        raise UserError(f"the {title} in {directory} cannot be loaded: {first_line(error)}") from error
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if wrong:
        raise UserError(f"the weights in {directory} do not fit config.json: {len(wrong)} tensors, first {wrong[0]}")
    check_finite(network.state_dict(), directory)
    return network


def parameters_of(make: Callable[[], torch.nn.Module]) -> int:
    """How many parameters the network that `make` returns has. Allocates nothing; raises what `make` does, see `REFUSALS`."""
    with torch.device("meta"):
        return sum(each.numel() for each in make().parameters())


def _check_parameters(kind: type["ModelMixin"], config: Mapping[str, Any], path: Path, title: str) -> None:
    """Raise UserError if the network of a config cannot be made, is too large, or needs more weights than lie beside it."""
    known, stored = (
        inspect.signature(kind).parameters,
        sum(each.stat().st_size for each in path.parent.glob("*.safetensors")),
    )
    try:
        parameters = parameters_of(lambda: kind(**{name: config[name] for name in known if name in config}))
    except REFUSALS as error:
        raise UserError(f"{path}: diffusers refuses this {title}: {first_line(error)}") from error
    if parameters > MOST_PARAMETERS:
        raise UserError(f"{path}: this {title} has {parameters:,} parameters, more than {MOST_PARAMETERS:,}")
    if parameters > stored:  # no format takes less than a byte for one
        raise UserError(
            f"the weights in {path.parent} do not fit config.json: {stored:,} bytes for {parameters:,} parameters"
        )


def check_size(config: dict[str, Any], path: Path, title: str) -> None:
    """Raise UserError where a network's config asks for more than any network has: it is made before its weights are read."""
    for name in LISTS:
        if isinstance(config.get(name), list) and len(config[name]) > MOST_BLOCKS:
            raise UserError(f"{path}: {name} has {len(config[name]):,} entries, more than any {title} ({MOST_BLOCKS})")
    for name, most in (
        ("layers_per_block", MOST_LAYERS),
        ("num_layers", MOST_TRANSFORMER_LAYERS),
        ("num_single_layers", MOST_TRANSFORMER_LAYERS),
    ):
        if not isinstance(config.get(name, 1), int) or config.get(name, 1) > most:
            raise UserError(f"{path}: {name} must be a number up to {most}")
    for name, value in config.items():
        numbers = value if isinstance(value, list) else [value]
        most = MOST_LAYERS if name in ("num_encoder_blocks", "num_decoder_blocks") else MOST_WIDTH
        if any(isinstance(each, int) and abs(each) > most for each in numbers):
            raise UserError(f"{path}: {name} is {max(numbers, key=abs):,}, more than any {title} has ({most:,})")


def check_index(
    path: Path, network: str, classes: Sequence[str], others: Mapping[str, Sequence[list[str]]] | None = None
) -> None:
    """Raise UserError for the `model_index.json` of a pipeline of more than a network, a scheduler, perhaps a VAE, and `others`.

    Args:
        network: the name of its network.
        classes: diffusers' classes that it may be of.
        others: further parts that it has, and what the index may say of each.
    """
    needed = {network: [["diffusers", name] for name in classes], **(others or {})}
    index = read_json(path)
    parts = {
        name: value
        for name, value in index.items()
        if not name.startswith("_") and isinstance(value, list) and value != [None, None]
    }
    known = {*needed, "scheduler", *VAES, *UNUSED}
    fitting = all(parts.get(name) in known_as for name, known_as in needed.items())
    if "scheduler" not in parts or not set(parts) <= known or not fitting:
        found = ", ".join(sorted(parts)) or "nothing"
        raise UserError(f"{path}: {index.get('_class_name', 'a pipeline')} of {found}: {REFUSED}")
    if set(parts) & set(VAES):
        require_vae(path.parent)


def load_scheduler(directory: Path, layout: Layout) -> Schedule:
    """The noise process of a pipeline.

    A scheduler of a latent model clips ẑ₀ only if its own file says so: latents have no range of their own, and most classes of
    diffusers do not clip.

    Raises:
        UserError: its file is absent or damaged.
    """
    path = _scheduler_file(directory, layout)
    schedule = load_process(path.parent)
    if layout.vae and not isinstance(schedule, NoiseProcess):
        schedule.register_to_config(clip_sample=bool(read_json(path).get("clip_sample", False)))
    return schedule


def load_flow(directory: Path, layout: Layout, tokens: int, even: bool = False) -> Flow:
    """The noise process of a pipeline that is sampled by flow matching; the arguments are those of `Flow`.

    Raises:
        UserError: its file is absent or damaged, or of another scheduler.
    """
    path = _scheduler_file(directory, layout)
    config = read_json(path)
    if config.get("_class_name") != Flow.scheduler:
        raise UserError(f"{path} is of a {config.get('_class_name')}; this model needs a {Flow.scheduler}")
    try:
        return Flow(config, tokens, even)
    except REFUSALS as error:
        raise UserError(f"{path} is no valid scheduler config: {first_line(error)}") from error


def _scheduler_file(directory: Path, layout: Layout) -> Path:
    path = directory / layout.scheduler / "scheduler_config.json"
    if not path.exists():
        raise UserError(
            f"{directory} has a network and no scheduler_config.json, like a training's checkpoint: put that of the finished "
            "pipeline into it as scheduler/scheduler_config.json"
        )
    return path


def check_table(path: Path, title: str, usual: Mapping[str, int]) -> None:
    """Raise UserError if a transformer's table of positions, which is made before its weights are read, would be absurdly large.

    Args:
        path: of its `config.json`.
        usual: by setting, its default: first the table's side, then `patch_size` if that divides it, and the attention's heads.
    """
    config = read_json(path)
    sizes = {name: config.get(name, value) for name, value in usual.items()}
    if not all(isinstance(each, int) and each > 0 for each in sizes.values()):
        raise UserError(f"{path}: {', '.join(sizes)} must be positive whole numbers")
    side, patch = next(iter(sizes.values())), sizes.get("patch_size", 1)
    width = sizes["num_attention_heads"] * sizes["attention_head_dim"]
    if (side // patch) ** 2 * width > 2**8 * MOST_WIDTH or side % patch:
        raise UserError(f"{path}: {side} latents along each side in patches of {patch} do not make a {title}")


def require_vae(directory: Path) -> None:
    """Raise UserError where a latent model's VAE is missing, without which its samples are no images."""
    if not vae_in(names_in(directory)):
        raise UserError(f"{directory}: the VAE is missing; give the pipeline's whole directory")
