"""The metrics of a whole audit, of the shape and size of the digits one, and what a report takes beside them."""

import base64
import copy
import io
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import beta

from side_ray.report.figures import build_figures
from side_ray.report.page import render
from side_ray.report.svg import Figure

N, TRAIN = 2000, 300
EDGES = {
    "cumulative": {"low": [None, 1.5], "mid": [None, 1.4], "high": [None, 1.35]},
    "bands": {"low": [1.4, 1.5], "mid": [1.35, 1.4], "high": [None, 1.35]},
}
# Method, λ, matches at the calibrated cut, distinct images (union), distinct best matches, held-out matches.
CALIBRATED = [
    ("random", 0.0, 104, 96, 80, 4),
    ("td", 0.5, 58, 57, 44, 1),
    ("td", 2.0, 204, 141, 118, 2),
    ("td", 5.0, 294, 178, 142, 3),
    ("td", 10.0, 324, 171, 134, 0),
    ("ti", 1.0, 50, 48, 40, 3),
    ("ti", 5.0, 4, 4, 4, 2),
]


def clopper_pearson(hits: int, n: int) -> list[float]:
    low = 0.0 if hits == 0 else float(beta.ppf(0.025, hits, n - hits + 1))
    high = 1.0 if hits == n else float(beta.ppf(0.975, hits + 1, n - hits))
    return [low, high]


def band(hits: int, union: int, best: int, held: int | None, n: int = N) -> dict[str, Any]:
    made: dict[str, Any] = {
        "ams": hits / n,
        "ams_count": hits,
        "ams_ci": clopper_pearson(hits, n),
        "ums": union / n,
        "ums_count": union,
        "ums_ci": [max(0.0, (union - 1.96 * union**0.5) / n), (union + 1.96 * union**0.5) / n],
        "ums_best": best / n,
        "ums_best_count": best,
        "ums_best_ci": [max(0.0, (best - 1.96 * best**0.5) / n), (best + 1.96 * best**0.5) / n],
    }
    if held is not None:
        made |= {"holdout_ams": held / n, "holdout_count": held, "holdout_ci": clopper_pearson(held, n)}
        made |= {
            "lift": hits / held if held else None,
            "lift_ci": [hits / (held + 5), 3 * hits / held if held else None],
        }
    return made


def _condition(method: str, scale: float, hits: int, union: int, best: int, held: int) -> dict[str, Any]:
    high = band(1900 + hits // 10, 300 - hits // 40, 260 - hits // 8, 1880)
    mid, low = (
        band(46 - hits // 9, 40 - hits // 10, 36 - hits // 10, 45),
        band(32 - hits // 16, 25 - hits // 20, 22 - hits // 20, 30),
    )
    rows = []
    for m in np.linspace(50, 2 * N, 80).astype(int).tolist():
        distinct = union * (1 - np.exp(-2.2 * m / N)) / (1 - np.exp(-2.2))
        rows.append({"m": m, "distinct": distinct, "ci": [0.92 * distinct, 1.08 * distinct], "extrapolated": m > N})
    return {
        "method": method,
        "lambda": scale,
        "n": N,
        "calibrated": band(hits, union, best, held),
        "bands": {"low": low, "mid": mid, "high": high},
        "cumulative": {
            "low": band(1950 + hits // 20, 300, 270, 1955),
            "mid": band(1930 + hits // 15, 300, 268 - hits // 10, 1925),
            "high": high,
        },
        "top_mean": {"0.1": 0.24 - hits / 2e4, "1": 0.41 - hits / 2e4, "10": 0.63 - hits / 2e4},
        "percentile_95": 0.66 - hits / 4e3,
        "diffmemorize": {"share": hits // 6 / N, "count": hits // 6, "ci": clopper_pearson(hits // 6, N)},
        "mcnemar": {"p_value": 1e-9 if hits > 150 else 0.03, "only_this": hits // 2 + 20, "only_random": 61},
        "richness": {
            "distinct": union,
            "coverage": 0.95 - union / 800,
            "chao2": {"value": union * 1.4, "ci": [union * 1.2, union * 1.8], "variance": 9.0, "unseen": union * 0.4},
            "curve": rows,
        },
    }


def share(count: int, n: int) -> dict[str, Any]:
    return {"share": count / n, "count": count, "ci": clopper_pearson(count, n)}


def opinions() -> dict[str, Any]:
    """Second opinions by nL2."""
    rows = [
        {
            "method": method,
            "lambda": scale,
            "n": N,
            "ratio": share(hits // 6, N) | {"against_unseen": share(held, N)},
            "authenticity": share(1500 - hits, N),
            "copying": {"z": -hits / 20, "cells": 8, "samples": N, "unseen": TRAIN},
            "frechet": None,
        }
        for method, scale, hits, _, _, held in CALIBRATED
    ]
    unseen = {"n": 2 * TRAIN, "ratio": share(1, 2 * TRAIN), "authenticity": share(330, 2 * TRAIN), "frechet": None}
    copying = {"z": 0.3, "cells": 8, "samples": TRAIN, "unseen": TRAIN}
    return {
        "distance": "L2 distance of pixel values",
        "absent": {"frechet": "pixel values are no descriptors; score.also adds a similarity by descriptors"},
        "conditions": rows,
        "unseen": unseen | {"copying": copying},
    }


def make_metrics() -> dict[str, Any]:
    return judged(unjudged())


def unjudged() -> dict[str, Any]:
    """The metrics of a report without a verdict."""
    return {
        "schema": 1,
        "similarity": {"name": "nl2", "alpha": 0.5, "n": 50, "bands": copy.deepcopy(EDGES)},
        "train_size": TRAIN,
        "calibration_size": TRAIN,
        "holdout_size": TRAIN,
        "cut": 0.6021,
        "cut_n": 6000,
        "cut_rank": 6,
        "cut_known": True,
        "false_match_rate_ci": [0.00037, 0.00194],
        "false_match_rate": 0.001,
        "provenance": {
            "run": {"uri": "s3://audits/digits", "seed": 7},
            "checkpoints": {"dpm": "sha256:" + "ab12" * 16, "student": "sha256:" + "cd34" * 16},
            "versions": {"side-ray": "0.1.0", "torch": "2.13.0", "faiss": "1.15.1"},
            "artifacts": {"prepare": "prepare/ab12cd34ef56", "dpm": "dpm/0f1e2d3c4b5a"},
        },
        "second_opinions": {"nl2": opinions()},
        "conditions": [
            {key: value for key, value in _condition(*row).items() if key != "mcnemar" or row[0] != "random"}
            for row in CALIBRATED
        ],
    }


def evidence(hits: int, held: int, distinct: int, n: int = N) -> dict[str, Any]:
    """What a condition has beside its scores in a report with a verdict."""
    value = (hits - held) / n
    half = 2 * (hits + held + 4) ** 0.5 / n
    return {
        "excess": value,
        "excess_ci": [value - half, value + half],
        "excess_member_share": hits / n,
        "excess_unseen_share": held / n,
        "discoveries": {
            "0.01": {"samples": hits // 2, "distinct": distinct // 2},
            "0.05": {"samples": hits, "distinct": distinct},
        },
    }


def judged(metrics: dict[str, Any], outcome: str = "found", **changes: Any) -> dict[str, Any]:
    """The metrics with a verdict, and with the evidence of every condition."""
    reasons = {"found": "counted", "none_found": "none", "cannot_say": "too_small"}
    found = outcome == "found"
    verdict: dict[str, Any] = {
        "outcome": outcome,
        "distinct": 223 if found else 0,
        "distinct_ci": [205.0, 251.0],
        "fdr": 0.05,
    }
    verdict |= {"copied": 77 if found else 0, "smallest_claimable": 10, "p_value": 0.0001 if found else 0.4}
    verdict |= {"detectable": 0.033, "reason": reasons[outcome], "remedy": "raise data.holdout", "stratum_rate": None}
    rows = []
    for row in metrics["conditions"]:
        hits, held = row["calibrated"]["ams_count"], row["calibrated"].get("holdout_count") or 0
        row = row | (evidence(hits, held, row["calibrated"]["ums_best_count"]) if found else evidence(held, held, 0))
        if row["method"] != "random":
            over = (hits - 104) / N if found else 0.0
            row["excess_over_random"] = {
                "difference": over,
                "ci": [over - 0.01, over + 0.01],
                "p_value": 1e-7 if over > 0.01 else 0.4,
            }
        rows.append(row)
    return metrics | {"conditions": rows, "verdict": verdict | changes}


def make_config() -> dict[str, Any]:
    return {
        "run": {"uri": "s3://audits/digits", "seed": 7},
        "data": {"source": "digits", "members": 300, "holdout": 300},
        "surrogate": {"labels": "cluster", "classes": 100, "synthetic": 6000},
        "extract": {
            "methods": ["random", "ti", "td"],
            "lambdas": [0, 0.5, 2, 5, 10],
            "samples": 2000,
            "sampler": "dpmsolver++",
        },
        "report": {"title": "Digits, 300 members", "gallery": 12},
        "storage": {"endpoint": None},
    }


def make_curves() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    steps = np.arange(10, 4001, 10)
    loss = 0.06 + 0.9 * np.exp(-steps / 150) + rng.gamma(2, 0.008, len(steps))
    t = [0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999]
    student = [0.81, 0.79, 0.74, 0.66, 0.52, 0.36, 0.22, 0.12, 0.06, 0.03, 0.015]
    return [
        {"stage": "dpm", "steps": steps.tolist(), "loss": loss.tolist()},
        {
            "stage": "student",
            "steps": [1, 100, 500, 2500],
            "loss": [4.6, 3.1, 1.9, 1.4],
            "t": t,
            "accuracy": student,
            "chance": 0.01,
        },
    ]


def make_values() -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    shift = {"random": 0.0, "td": -0.12, "ti": 0.05}
    return [
        {
            "method": method,
            "lambda": scale,
            "best": np.clip(rng.normal(0.86 + shift[method], 0.16, N), 0, 2),
            "holdout_best": np.clip(rng.normal(1.0, 0.11, N), 0, 2),
        }
        for method, scale, *_ in CALIBRATED
    ]


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def make_gallery() -> list[dict[str, Any]]:
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(2)
    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)
    items = []
    for method, scale, spread in (("td", 5.0, 12), ("random", 0.0, 22), ("ti", 1.0, 30)):
        for place in range(14):
            near = np.clip(images[place] + rng.normal(0, spread, (8, 8)), 0, 255).astype(np.uint8)
            items.append(
                {
                    "method": method,
                    "lambda": scale,
                    "train_id": place,
                    "sample_id": 100 + 7 * place,
                    "value": 0.15 + 0.04 * place + spread / 300,
                    "train_png": png(images[place]),
                    "sample_png": png(near),
                    "label": int(digits.target[place]),
                }
            )
    return items


def make_pairs(count: int = 60) -> dict[str, Any]:
    """Pairs to look through, of three methods in turn, closest first; two thirds of them within the cut."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images[:40] * 255 / 16).astype(np.uint8)
    uris = ["data:image/png;base64," + base64.b64encode(png(image)).decode() for image in images]
    rows = []
    for place in range(count):
        method, scale = (("td", 5.0), ("random", 0.0), ("ti", 1.0))[place % 3]
        train = place * 7 % 20
        value, unseen = 0.1 + 0.75 * place / count, 0.9 + 0.001 * place
        rows.append(
            [
                method,
                scale,
                place,
                train,
                value,
                int(digits.target[train]),
                f"{train}.png",
                0.01,
                20 + place % 20,
                unseen,
            ]
        )
    return {
        "within": 2 * count // 3 + 100,
        "shown": 2 * count // 3,
        "side": 8,
        "rows": rows,
        "samples": [uris[row[3]] for row in rows],
        "train": {train: uris[train] for train in range(20)},
        "unseen": {unseen: uris[unseen] for unseen in range(20, 40)},
    }


class Outline(HTMLParser):
    """What a page is made of. `faults` lists tags that are closed in the wrong order or never."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.faults: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()
        else:
            self.faults.append(f"</{tag}> closes <{self._open[-1] if self._open else 'nothing'}>")

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self._open[-1] if self._open else "", " ".join(data.split())))

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in tags]

    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.tags if attributes.get("id")]  # type: ignore[misc]

    def text(self, *tags: str) -> str:
        return " ".join(text for tag, text in self.texts if (tag in tags if tags else tag != "style"))


@pytest.fixture
def outline() -> type[Outline]:
    return Outline


metrics, config, curves, values, gallery, pairs = (
    pytest.fixture(make, name=make.__name__.removeprefix("make_"))
    for make in (make_metrics, make_config, make_curves, make_values, make_gallery, make_pairs)
)


@pytest.fixture(scope="session")
def whole_figures() -> list[Figure]:
    """The figures of everything above, made once."""
    return build_figures(make_metrics(), curves=make_curves(), values=make_values())


@pytest.fixture(scope="session")
def html(whole_figures: list[Figure]) -> str:
    """The page of everything above, made once."""
    return render(make_metrics(), make_config(), figures=whole_figures, gallery=make_gallery(), pairs=make_pairs())


@pytest.fixture
def many_pairs() -> dict[str, Any]:
    return make_pairs(5000)


@pytest.fixture
def page(html: str, outline: type[Outline]) -> Outline:
    return outline(html)


@pytest.fixture
def without() -> Callable[..., dict[str, Any]]:
    """The metrics, deeply copied, without the named keys anywhere in the conditions."""

    def strip(metrics: dict[str, Any], *keys: str) -> dict[str, Any]:
        def clean(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: clean(inner) for key, inner in value.items() if key not in keys}
            return [clean(inner) for inner in value] if isinstance(value, list) else value

        return clean(metrics)

    return strip
