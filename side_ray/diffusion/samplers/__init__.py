"""Samplers: one file per sampler, each a subclass of `base.Sampler`.

A new sampler is one file and one line here. Its class says which timesteps it visits, how it steps from one to the next, how
often it evaluates the model, and which keys (`Options`) it adds to the config's section `extract`. The loop in
`diffusion/sampler.py` calls it and needs no change. The files import torch and diffusers inside functions only, because
every config reads their `Options`.
"""

from typing import TYPE_CHECKING

from side_ray.registry import Registry

if TYPE_CHECKING:
    from side_ray.diffusion.samplers.base import Sampler

SAMPLERS: "Registry[type[Sampler]]" = Registry(
    "extract.sampler",
    {
        "ddim": "side_ray.diffusion.samplers.ddim:Ddim",
        "ddpm": "side_ray.diffusion.samplers.ddpm:Ddpm",
        "dpmsolver++": "side_ray.diffusion.samplers.dpmsolver:DpmSolver",
        "unipc": "side_ray.diffusion.samplers.unipc:UniPc",
    },
)
