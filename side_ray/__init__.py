"""Audit how much of its training set a diffusion model gives away (SIDE: surrogate conditional data extraction)."""

import side_ray.report.sections  # noqa: F401 (creates a registry that the config's sections check names against)

__version__ = "0.1.0"
