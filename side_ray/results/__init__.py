"""Reading a finished run, without Ray and without the training data: its numbers, its matches, and its images.

- `recorded`: what the newest report was made from. Everything here starts from it.
- `opened`: `side_ray.open_run`, a run in Python: metrics, tables, pairs, figures.
- `extracted`: the training images that were found, one row each.
- `remake`: a sample made again from its seed.
- `purge`: removes the images of a run and keeps its numbers.
"""
