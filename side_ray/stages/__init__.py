"""The steps of an audit, one file per step of `algorithm.py`.

A new step is one file with a function of an `Audit`, one line in `algorithm.ALGORITHM`, and one artifact in `runs/artifacts.py`.
A stage makes only what is missing, so that running the same command again resumes.
"""
