"""Audit how much of its training set a diffusion model gives away (SIDE: surrogate conditional data extraction)."""

import side_ray.diffusion.denoisers
import side_ray.diffusion.samplers  # noqa: F401

__version__ = "0.1.0"
