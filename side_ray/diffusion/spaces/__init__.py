"""What a model diffuses, and what a classifier sees of it: `pixels` for models of pixels in any range of values, `view` for
classifiers. `Dpm.codec` is None for a model of pixels in [−1, 1].
"""
