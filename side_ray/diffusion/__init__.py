"""The victim and how images are drawn from it: diffusion models, the closed-form optimum, guidance and samplers.

Pure torch and diffusers. `dpm` opens or makes a model, `schedule` holds its noise levels, `optimal` is the model that
memorizes everything, `guidance` turns a classifier into a term of the score, and `sampler` draws images with it.
"""
