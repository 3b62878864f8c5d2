"""The `side-ray` command: `app` has the verbs, `actions` what they do, `given` a config made from paths alone.

A new verb is a function of `app`; one that runs a study is one line of `actions.STUDIES` beside it.
"""

from side_ray.cli.actions import job
from side_ray.cli.app import app

__all__ = ["app", "job"]
