"""The paper's tables and figures, recomputed from a run's numbers and compared with the printed ones.

A new table or figure is a function that returns a `printed.Recomputed`. Its drawing goes into `draw`, the paper's printed numbers
into `data/` as CSV with their source, and its name into `side_ray.studies.reproduce`.
"""
