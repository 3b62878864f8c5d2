"""Where the parts of a diffusers pipeline are in its directory, and which of its files are read."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from side_ray.errors import UserError

INDEX = "model_index.json"
LORA = "lora.json"
"""The weights of the LoRA files `lora/0.safetensors`, …, which are added to the model."""
SIZE = "size.json"
"""The size of the images that a text-conditioned model makes, where that is not the network's own."""
OWN = ("condition.json", "pixels.json", SIZE, LORA)
"""Files of this project beside a pipeline."""
WEIGHTS = re.compile(
    r"diffusion_pytorch_model(?P<index>\.safetensors\.index)?(\.(?P<variant>\w+))?(-\d+-of-\d+)?\.(json|safetensors)"
)
TEXT_WEIGHTS = re.compile(
    r"model(?P<index>\.safetensors\.index)?(\.(?P<variant>\w+))?(-\d+-of-\d+)?\.(json|safetensors)"
)
"""As transformers names them."""
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
NETWORKS = ("unet", "unet_ema")
TRANSFORMER = "transformer"
DIT_CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")
"""Of DiT's transformer: today, and earlier."""
VAES = ("vae", "vqvae", "movq")
"""Directories of the VAE of a latent model."""

TOKENIZER, ENCODER = "tokenizer", "text_encoder"
SUFFIXES = ("", "_2", "_3")
"""Of the directories of a model's tokenizers and text encoders."""

OTHER_PARTS = (*(f"{ENCODER}{each}" for each in SUFFIXES), "transformer", "prior", "image_encoder")
"""Directories of pipelines of more than a U-Net, a VAE and a scheduler."""
REFUSED = (
    "models can be audited that are unconditional, conditional on classes, or on text as Stable Diffusion, Flux and PixArt are "
    "(side-ray models lists the kinds); for any other draw images yourself and run side-ray score --samples … --train …"
)


def check_alone(directories: Iterable[str]) -> None:
    """Raise UserError if what lies beside a U-Net makes it a part of another kind of model, such as a text-conditioned one."""
    if beside := sorted(set(OTHER_PARTS) & set(directories)):
        raise UserError(f"there is {', '.join(beside)} beside the U-Net: {REFUSED}")


@dataclass(frozen=True)
class Layout:
    """The parts of a pipeline, as paths relative to its directory.

    unet: directory of the denoising network, "" if it is the pipeline's own.
    scheduler: directory of the scheduler's config.
    variant: of the network's weights, for example `fp16`; "" for those without.
    vae: directory of the VAE, "" without one.
    files: all files that are read.
    """

    unet: str
    scheduler: str
    variant: str
    vae: str
    files: tuple[str, ...]

    @classmethod
    def of(
        cls,
        names: Iterable[str],
        variant: str | None = None,
        ema: bool = False,
        networks: Sequence[str] = NETWORKS,
    ) -> "Layout":
        """Find the parts among the relative paths of a directory's files.

        Args:
            variant: of the weights, if they have several.
            ema: take `unet_ema` in place of `unet`.
            networks: where the denoising network may be.

        Raises:
            UserError: the chosen weights are not there.
        """
        known = set(names)
        present = [part for part in networks if any(name.startswith(f"{part}/") for name in known)]
        unet = present[0] if present else ""
        if ema:
            if "unet_ema" not in present:
                raise UserError("there is no unet_ema/ in it; drop dpm.weights", "dpm.weights")
            unet = "unet_ema"
        scheduler = "scheduler" if "scheduler/scheduler_config.json" in known else ""
        prefix, vae = f"{unet}/" if unet else "", vae_in(known)
        chosen, weights = _chosen(known, prefix, variant)
        configs = [f"{prefix}config.json", f"{scheduler}/scheduler_config.json".lstrip("/"), INDEX, *OWN]
        files = [*weights, *vae_files(known, variant), *(name for name in configs if name in known)]
        return cls(unet, scheduler, chosen, vae, tuple(sorted(set(files))))


def vae_in(names: Iterable[str]) -> str:
    """The directory of the VAE among relative paths of files; "" if there is none."""
    known = set(names)
    return next((part for part in VAES if f"{part}/config.json" in known), "")


def vae_files(names: Iterable[str], variant: str | None = None) -> list[str]:
    """The files of the VAE that are read; of its weights the variant, or those without a name where it has no such variant.

    Raises:
        UserError: it has several variants, and none is chosen; or its config is missing.
    """
    known = set(names)
    if not (vae := vae_in(known)):
        if beside := [part for part in VAES if any(name.startswith(f"{part}/") for name in known)]:
            raise UserError(f"{beside[0]}/ has no config.json, so its VAE cannot be opened; give the whole directory")
        return []
    has = variant if variant in _variants(known, f"{vae}/", WEIGHTS) else None
    return [f"{vae}/config.json", *_chosen(known, f"{vae}/", has)[1]]


def text_files(names: Iterable[str], variant: str | None = None) -> list[str]:
    """The files of the tokenizers and the text encoders that are read; of their weights the variant, as of `vae_files`.

    Raises:
        UserError: a text encoder has several variants, and none is chosen.
    """
    known, found = set(names), []
    for suffix in SUFFIXES:
        prefix = f"{ENCODER}{suffix}/"
        has = variant if variant in _variants(known, prefix, TEXT_WEIGHTS) else None
        found += [name for name in sorted(known) if re.fullmatch(rf"{TOKENIZER}{suffix}/[^/]+\.(json|txt|model)", name)]
        found += [name for name in (f"{prefix}config.json",) if name in known]
        found += _chosen(known, prefix, has, TEXT_WEIGHTS)[1]
    return found


def vae_variant(names: Iterable[str]) -> str:
    """The variant of the VAE's weights, where only one is there."""
    known = set(names)
    return variant_of(known, f"{vae_in(known)}/")


def variant_of(names: Iterable[str], prefix: str, pattern: re.Pattern[str] = WEIGHTS) -> str:
    """The variant of the weights below a prefix, where only one is there."""
    return _chosen(set(names), prefix, None, pattern)[0]


def _variants(known: Iterable[str], prefix: str, pattern: re.Pattern[str]) -> dict[str, list[str]]:
    """The files of weights below a prefix, by variant."""
    found: dict[str, list[str]] = {}
    for name in sorted(known):
        if name.startswith(prefix) and (weights := pattern.fullmatch(name.removeprefix(prefix))):
            found.setdefault(weights["variant"] or "", []).append(name)
    return found


def _chosen(
    known: Iterable[str], prefix: str, variant: str | None, pattern: re.Pattern[str] = WEIGHTS
) -> tuple[str, list[str]]:
    """The variant of the weights below a prefix that is read, and its files. Raises UserError if it is not there."""
    weights = _variants(known, prefix, pattern)
    chosen = variant if variant is not None else "" if "" in weights else next(iter(weights), "")
    if variant is None and "" not in weights and len(weights) > 1:
        raise UserError(f"the weights have the variants {', '.join(weights)}; choose one as dpm.variant", "dpm.variant")
    if variant is not None and variant not in weights:
        had = ", ".join(each or "the one without a name" for each in weights) or "none"
        raise UserError(f"there are no weights of the variant {variant!r}; there are: {had}", "dpm.variant")
    return chosen, weights.get(chosen, [])


def names_in(directory: Path) -> list[str]:
    """Relative paths of the files in a directory and in the directories in it, hidden ones left out."""
    found = [*directory.glob("[!.]*"), *directory.glob("[!.]*/[!.]*")]
    return sorted(path.relative_to(directory).as_posix() for path in found if path.is_file())
