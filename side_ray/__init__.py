"""Audit how much of its training set a diffusion model gives away (SIDE: surrogate conditional data extraction)."""

__version__ = "0.1.0"
