"""Kinds of diffusion model: one file per kind, each a subclass of `base.ModelKind`.

A new kind is one file and one line here; those conditioned on text are in `text/`. Its class recognizes a directory of its
kind, opens it, and says which keys (`Options`) it adds to the config's section `dpm`. A kind that is made from the members
without training (`base.MadeFromMembers`) can be chosen as `dpm.kind` by its name here. The networks themselves are in
`diffusion/unet_dpm.py`, `diffusion/networks/` and `diffusion/optimal.py`; the files here import torch and diffusers inside
functions only, because every config reads their `Options`.
"""

from typing import TYPE_CHECKING, Any

from side_ray.registry import Registry

if TYPE_CHECKING:
    from side_ray.config import DpmSection
    from side_ray.diffusion.denoisers.base import MadeFromMembers, ModelKind

KINDS: "Registry[type[ModelKind]]" = Registry(
    "dpm.denoiser",
    {
        # First: among the files that a function reads may be those of another kind.
        "function": "side_ray.diffusion.denoisers.function:Function",
        "optimal": "side_ray.diffusion.denoisers.optimal:Optimal",
        "latent": "side_ray.diffusion.denoisers.latent:Latent",
        "dit": "side_ray.diffusion.denoisers.dit:DiT",
        "text": "side_ray.diffusion.denoisers.text.stable_diffusion:StableDiffusion",
        "sdxl": "side_ray.diffusion.denoisers.text.sdxl:StableDiffusionXL",
        "sd3": "side_ray.diffusion.denoisers.text.sd3:StableDiffusion3",
        "flux": "side_ray.diffusion.denoisers.text.flux:Flux",
        "pixart": "side_ray.diffusion.denoisers.text.pixart:PixArt",
        "unet": "side_ray.diffusion.denoisers.unet:Unet",
    },
)


def made_from_members(dpm: "DpmSection") -> "type[MadeFromMembers] | None":
    """The kind of model that `dpm.kind` makes from the members; None where it trains or imports a model."""
    if dpm.kind in ("train", "import"):
        return None
    kind: Any = KINDS[dpm.kind]
    return kind
