"""Conditions of a diffusion model: `classes` of class-conditional models, `prompts` of text models, how both are drawn for
samples (`drawn`), and classifier-free guidance (`free`).
"""

from side_ray.diffusion.condition.classes import FILE, Condition, Kind, condition_labels
from side_ray.diffusion.condition.free import FreeGuidance

__all__ = ["FILE", "Condition", "FreeGuidance", "Kind", "condition_labels"]
