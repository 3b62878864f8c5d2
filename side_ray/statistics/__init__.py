"""Statistics of similarity values: bands and the calibrated cut, AMS and UMS with intervals, tests, and richness estimates.

Functions take numpy arrays and return numbers for `metrics.json`. `scores.condition_metrics` collects the numbers of one
condition: a new one is a function here and a key there.
"""
