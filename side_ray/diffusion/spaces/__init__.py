"""What a model diffuses, and what a classifier sees of it. `codec` is the way between images and z_0: `pixels` for models of
pixels in any range of values, `latents` for a VAE, `given` for functions in its place; `Dpm.codec` is None for a model of pixels
in [−1, 1]. `bounds` holds ẑ₀ in range, and `view` is for classifiers.
"""
