"""The cost of an audit before it starts: `sampling` of the networks and the lines of the plan, `search` of the comparisons."""

from side_ray.runs.cost.sampling import (
    Estimate,
    estimate,
    plan_json,
    plan_lines,
    probe,
    sample_flops,
    unit_flops,
)
from side_ray.runs.cost.search import Pace, SearchPlan, plan_search, planned_search, probe_given, probe_search

__all__ = [
    "Estimate",
    "Pace",
    "SearchPlan",
    "estimate",
    "plan_json",
    "plan_lines",
    "plan_search",
    "planned_search",
    "probe",
    "probe_given",
    "probe_search",
    "sample_flops",
    "unit_flops",
]
