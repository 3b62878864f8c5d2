"""The `side-ray` command: `app` parses the verbs, `actions` runs those of an audit, `reading` those that read runs,
`submitting` those of jobs on a cluster.

A new verb is a function in `app` that calls one in `actions`. A verb that runs a study needs, instead of the latter, one line
in `actions.STUDIES`.
"""

from side_ray.cli.actions import job
from side_ray.cli.app import app

__all__ = ["app", "job"]
