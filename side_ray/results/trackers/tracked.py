"""What an experiment tracker is told of a finished audit, once for each result."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from side_ray.report.verdict.sentences import sentence
from side_ray.results.trackers.clients import CLIENTS, Finished
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.run import PAGE, fingerprint

TRACKED = "tracked.json"
"""At the top of a run: by tracker and result, where it was logged. Without it all is logged again."""
_SHARES = ("ams", "ums", "holdout_ams")


def track(artifacts: Artifacts, tracker: str) -> str:
    """Log the report to a tracker, unless this result was logged to it before.

    Args:
        tracker: one of `CLIENTS`.

    Returns:
        Where it is, in the tracker's own words; "" if it was logged before.

    Raises:
        Exception: whatever the tracker raises.
    """
    store, metrics = artifacts.run.store, artifacts.report.read_json("metrics.json")
    result = fingerprint({name: value for name, value in metrics.items() if name != "provenance"})
    logged = json.loads(store.read(TRACKED)) if store.exists(TRACKED) else {}
    if result in logged.get(tracker, {}):
        return ""
    finished = Finished(
        name=store.uri.rstrip("/").rpartition("/")[2],
        config=yaml.safe_load(artifacts.config.to_yaml()),
        numbers=numbers(metrics),
        texts={"outcome": metrics["verdict"]["outcome"], "verdict": sentence(metrics)},
        files={PAGE: store.read(PAGE), "metrics.json": json.dumps(metrics, indent=1).encode()},
    )
    where = CLIENTS[tracker](finished)
    logged.setdefault(tracker, {})[result] = where
    store.write(TRACKED, json.dumps(logged, indent=1).encode())
    return where


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The flat scalars of metrics.json: `verdict/…`, and for each condition `METHOD/lambda_λ/…`. Shares are fractions."""
    verdict = metrics["verdict"]
    found: dict[str, float | None] = {"verdict/found": verdict["outcome"] == "found"}
    found |= {f"verdict/{name}": verdict.get(name) for name in ("distinct", "copied")}
    found |= {name: metrics.get(name) for name in ("cut", "train_size")}
    for row in metrics["conditions"]:
        place = f"{row['method']}/lambda_{row['lambda']:g}"
        bands = {f"{kind}/{band}": row[kind][band] for kind in ("bands", "cumulative") for band in row[kind]}
        bands |= {"calibrated": row["calibrated"]} if row.get("calibrated") else {}
        found |= {f"{place}/{band}/{name}": shares.get(name) for band, shares in bands.items() for name in _SHARES}
        found[f"{place}/excess"] = row.get("excess")
    return {name: float(value) for name, value in found.items() if value is not None}
