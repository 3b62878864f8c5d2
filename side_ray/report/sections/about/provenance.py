"""What the numbers were made from: sizes, similarity, hashes, versions and the config."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from side_ray.errors import masked
from side_ray.report import wording
from side_ray.report.sections import PageData, PageSection


class Provenance(PageSection):
    heading = contents = "Provenance"

    def values(self, data: PageData) -> dict[str, Any]:
        metrics, config = data.metrics, dict(data.config)
        made = metrics.get("provenance") or {}
        return {
            "rows": [
                *_sources(metrics),
                *_sizes_and_cut(metrics),
                *_leaves(_without(metrics["similarity"], "bands"), "similarity"),
                *_leaves(_without(made, "config", "artifacts")),
            ],
            "artifacts": _leaves(made.get("artifacts") or {}, "artifacts"),
            "config": masked(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)) if config else "",
        }


def _sources(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was read of each source, and what was left out."""
    # Imported late: it loads pyarrow, and every config validation imports this module.
    from side_ray.sources.inventory import reasons

    for row in metrics.get("sources") or ():
        text = f"{wording.count(row['read'])} of {wording.count(row['found'])} read from {masked(row['path'])}"
        yield f"source of {row['role']}", f"{text}; left out: {reasons(row)}" if row["left_out"] else text


def _sizes_and_cut(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The sizes of the sets, and the cut with the interval of its false-match rate."""
    for key, label in (
        ("train_size", "training images"),
        ("train_distinct", "distinct training images"),
        ("calibration_size", "calibration images"),
        ("holdout_size", "held-out images"),
    ):
        if metrics.get(key) is not None:
            yield label, wording.count(metrics[key])
    if metrics.get("cut") is not None:
        text = wording.cut_text(metrics)
        if metrics.get("cut_n") is not None:
            text += f", set by {wording.count(metrics['cut_n'])} samples"
        if rate := wording.interval(metrics.get("false_match_rate_ci")):
            text += f"; true false-match rate {rate} (95%)"
        yield "calibrated cut", text


def _without(values: Mapping[str, Any], *left_out: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in left_out}


def _leaves(value: Any, path: str = "") -> list[tuple[str, str]]:
    """Nested dicts and lists as (dotted key, text) rows."""
    if isinstance(value, Mapping):
        return [row for key, inner in value.items() for row in _leaves(inner, f"{path}.{key}" if path else str(key))]
    if isinstance(value, (list, tuple)) and any(isinstance(inner, (Mapping, list, tuple)) for inner in value):
        return [row for place, inner in enumerate(value) for row in _leaves(inner, f"{path}.{place}")]
    if isinstance(value, (list, tuple)):
        value = ", ".join(str(inner) for inner in value)
    return [(path, masked(str(value)))]
