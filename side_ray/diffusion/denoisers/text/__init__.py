"""Kinds of model that are conditioned on text (extra `text`): one file per kind, each a subclass of `base.TextKind`.

The networks are in `diffusion/networks/text`, and what encodes prompts in `diffusion/condition/prompts.py`.
"""
