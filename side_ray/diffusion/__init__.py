"""Diffusion models and how images are drawn from them. Plain torch and diffusers, usable in a notebook alone.

- `draw`: the only way in which images are made; `sampler` is its loop, `samplers/` the steps (a new sampler goes there).
- `dpm`: the interface of a model and `load_dpm`; `denoisers/` the kinds of model (a new kind goes there), around the networks
  in `unet_dpm` and `networks/`, and the closed form in `optimal`.
- `processes/`: z_t = α_t·z_0 + σ_t·ε (a new noise process goes there), around the schedules in `noise_process`. `spaces/`: what
  z_0 is of an image, where it is held, and what a classifier sees of z_t.
- `condition`: a model's own classes. `guidance`: a classifier as a term of the score.
- `likelihood`: the density of a model. `files`: reading the JSON files of a model's directory.
"""
