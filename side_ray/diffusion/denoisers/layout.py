"""Where the parts of a diffusers pipeline are in its directory, and which of its files are read."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from side_ray.errors import UserError

INDEX = "model_index.json"
OWN = ("condition.json", "pixels.json")
"""Files of this project beside a pipeline."""
WEIGHTS = re.compile(
    r"diffusion_pytorch_model(?P<index>\.safetensors\.index)?(\.(?P<variant>\w+))?(-\d+-of-\d+)?\.(json|safetensors)"
)
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
NETWORKS = ("unet", "unet_ema")

OTHER_PARTS = ("vae", "vqvae", "movq", "text_encoder", "text_encoder_2", "transformer", "prior", "image_encoder")
"""Directories of pipelines that are no pixel-space U-Net alone."""
REFUSED = (
    "only a UNet2DModel of pixels and a scheduler can be audited (side-ray models lists the kinds); for any other model draw "
    "images yourself and run side-ray score --samples … --train …"
)


def check_alone(directories: Iterable[str]) -> None:
    """Raise UserError if what lies beside a U-Net makes it a part of another kind of model, such as a latent one."""
    if beside := sorted(set(OTHER_PARTS) & set(directories)):
        raise UserError(f"there is {', '.join(beside)} beside the U-Net: {REFUSED}")


@dataclass(frozen=True)
class Layout:
    """The parts of a pipeline, as paths relative to its directory.

    unet: directory of the U-Net, "" if it is the pipeline's own.
    scheduler: directory of the scheduler's config.
    variant: of the weights, for example `fp16`; "" for those without.
    files: all files that are read.
    """

    unet: str
    scheduler: str
    variant: str
    files: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str], variant: str | None = None, ema: bool = False) -> "Layout":
        """Find the parts among the relative paths of a directory's files.

        Args:
            variant: of the weights, if they have several.
            ema: take `unet_ema` in place of `unet`.

        Raises:
            UserError: the chosen weights are not there.
        """
        known = set(names)
        present = [part for part in NETWORKS if any(name.startswith(f"{part}/") for name in known)]
        unet = present[0] if present else ""
        if ema:
            if "unet_ema" not in present:
                raise UserError("there is no unet_ema/ in it; drop dpm.weights", "dpm.weights")
            unet = "unet_ema"
        scheduler = "scheduler" if "scheduler/scheduler_config.json" in known else ""
        prefix = f"{unet}/" if unet else ""
        weights: dict[str, list[str]] = {}
        for name in sorted(known):
            if name.startswith(prefix) and (found := WEIGHTS.fullmatch(name.removeprefix(prefix))):
                weights.setdefault(found["variant"] or "", []).append(name)
        chosen = variant if variant is not None else "" if "" in weights else next(iter(weights), "")
        if variant is None and "" not in weights and len(weights) > 1:
            raise UserError(
                f"the weights have the variants {', '.join(weights)}; choose one as dpm.variant", "dpm.variant"
            )
        if variant is not None and variant not in weights:
            had = ", ".join(each or "the one without a name" for each in weights) or "none"
            raise UserError(f"there are no weights of the variant {variant!r}; there are: {had}", "dpm.variant")
        configs = [f"{prefix}config.json", f"{scheduler}/scheduler_config.json".lstrip("/"), INDEX, *OWN]
        files = [*weights.get(chosen, []), *(name for name in configs if name in known)]
        return cls(unet, scheduler, chosen, tuple(sorted(set(files))))


def names_in(directory: Path) -> list[str]:
    """Relative paths of the files in a directory and in the directories in it, hidden ones left out."""
    found = [*directory.glob("[!.]*"), *directory.glob("[!.]*/[!.]*")]
    return sorted(path.relative_to(directory).as_posix() for path in found if path.is_file())
