"""Audit how much of its training set a diffusion model gives away (SIDE: surrogate conditional data extraction).

Importing the package creates its registries, whose names a config is checked against; it loads no large library.
"""

import side_ray.diffusion.denoisers
import side_ray.diffusion.samplers
import side_ray.report.sections
import side_ray.similarity
import side_ray.sources  # noqa: F401

__version__ = "0.1.0"
