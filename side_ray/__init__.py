"""Audit how much of its training set a diffusion model gives away (SIDE: surrogate conditional data extraction)."""

# The registries, against which a config is validated. They import their items only when these are used.
import side_ray.similarity
import side_ray.sources  # noqa: F401

__version__ = "0.1.0"
