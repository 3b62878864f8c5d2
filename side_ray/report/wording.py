"""How numbers, bands, methods and similarities are written in the page, the figures and the terminal."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from side_ray.similarity import SIMILARITIES

METHODS = {
    "random": "Random",
    "td": "SIDE",
    "lora": "SIDE (LoRA)",
    "ti": "OL-TI",
    "base": "Base extrapolation",
    "given": "Given samples",
}
SCORES = {"ams": "AMS", "ums": "UMS", "ums_best": "UMS by best match"}
KINDS = {"calibrated": "Calibrated cut", "cumulative": "Cumulative", "bands": "Banded"}
FEW_MATCHES = 5
"""Below this number of matches, the interval is too wide for a comparison."""
MOST_RATIO = 1000
"""Ratios beyond this are not written out: their denominator rests on next to nothing."""


def method_name(method: str) -> str:
    return METHODS.get(method, method)


def condition_name(condition: Mapping[str, Any]) -> str:
    """`SIDE at λ=5`; a condition without guidance is its method alone."""
    scale = condition.get("lambda")
    name = method_name(condition["method"])
    return f"{name} at λ={scale:g}" if scale else name


def scale_text(scale: float | None) -> str:
    return "–" if scale is None else f"{scale:g}"


def percent(share: float | None) -> str:
    """A fraction as a percentage, small ones with more decimals; `–` where it is not known."""
    if share is None or not math.isfinite(share):
        return "–"
    value = 100 * share
    if value == 0 or value == 100:
        return f"{value:.0f}%"
    return f"{value:.2g}%" if value < 0.01 else f"{value:.{_decimals(value)}f}%"


def interval(bounds: Sequence[float] | None) -> str:
    """A 95 % interval of a share, `9.3–12.0%`; empty where there is none."""
    if bounds is None or any(bound is None or not math.isfinite(bound) for bound in bounds):
        return ""
    low, high = (100 * bound for bound in bounds)
    decimals = _decimals(high)
    return f"{low:.{0 if low == 0 else decimals}f}–{high:.{0 if high == 100 else decimals}f}%"


def ratio(value: float | None) -> str:
    """A ratio of two shares, `59.0×`; beyond `MOST_RATIO` it is `>1,000×`, because few matches set it."""
    return "–" if value is None else f"{_capped(value)}×"


def lift_interval(bounds: Sequence[float | None] | None) -> str:
    """A 95 % interval of a lift, `11.6–78.0`; `over 11.6` where it has no upper end, empty where there is none."""
    low, high = bounds or (None, None)
    if low is None:
        return ""
    if low > MOST_RATIO:
        return _capped(low)
    return f"over {low:.1f}" if high is None else f"{low:.1f}–{_capped(high)}"


def _capped(value: float) -> str:
    return f">{MOST_RATIO:,}" if value > MOST_RATIO else f"{value:,.1f}"


def _decimals(value: float) -> int:
    # 99.97 % must not be rounded to 100 %.
    return 1 if 10 <= value < 99.9 else 2 if value >= 0.1 else 3


def number(value: float | None, decimals: int = 3) -> str:
    # Adding 0.0 turns −0.0 into 0.0.
    return "–" if value is None or not math.isfinite(value) else f"{round(value, decimals) + 0.0:,.{decimals}f}"


def significant(value: float | None) -> str:
    """Three significant digits, for values of any size."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3g}"


def count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def p_value(p: float) -> str:
    """`= 0.03`, or `< 0.0001`."""
    return "< 0.0001" if p < 0.0001 else f"= {p:.2g}"


def one_in(rate: float) -> str:
    """`1 in 1,000` for 0.001."""
    return f"1 in {1 / rate:,.0f}"


def lower_is_closer(similarity: Mapping[str, Any]) -> bool:
    """Whether smaller values of a similarity, as metrics.json describes it, are closer."""
    if "closer" in similarity:
        return bool(similarity["closer"] == "lower")
    name = str(similarity.get("name"))
    return name in SIMILARITIES and not SIMILARITIES[name].larger_is_closer


def similarity_name(similarity: Mapping[str, Any]) -> str:
    """Its name for readers; that of the config where the similarity is not registered here."""
    name = str(similarity.get("name", "similarity"))
    return SIMILARITIES[name].display_name if name in SIMILARITIES else name


def described_name(similarity: Mapping[str, Any]) -> str:
    """Its name for readers, with that of the encoder where a file describes it."""
    name, encoder = similarity_name(similarity), similarity.get("encoder")
    return f"{name} ({encoder})" if encoder else name


def cut_text(metrics: Mapping[str, Any]) -> str:
    """`nL2 ≤ 0.602`."""
    sign = "≤" if lower_is_closer(metrics["similarity"]) else "≥"
    return f"{similarity_name(metrics['similarity'])} {sign} {number(metrics['cut'])}"


def edges_text(edges: Sequence[float | None] | None) -> str:
    """The edges of a band, `1.35 to 1.4`, `≤ 1.35` or `≥ 0.6`."""
    if edges is None:
        return ""
    low, high = edges
    if low is None and high is None:
        return "any value"
    if low is None:
        return f"≤ {high:g}"
    if high is None:
        return f"≥ {low:g}"
    return f"{low:g} to {high:g}"


def duration(seconds: float) -> str:
    """Seconds in readable units, for example `3 min 05 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def about(seconds: float) -> str:
    """Seconds as an estimate, for example `6 min`: below two minutes in steps of 10 s, then in whole minutes."""
    if seconds < 115:
        return f"{max(10, 10 * round(seconds / 10))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
