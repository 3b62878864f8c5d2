"""Property tests on a shared machine have no deadline, and the same examples on every run."""

from hypothesis import settings

settings.register_profile("memorization", deadline=None, derandomize=True, database=None)
settings.load_profile("memorization")
