"""The `side-ray` command: `app` is the command line, `job` the entry point of a submitted job."""

from side_ray.cli.app import app, job

__all__ = ["app", "job"]
