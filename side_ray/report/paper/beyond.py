"""What the conditions of an audit show beyond matches by chance, beside the paper's AMS and UMS, which count those too."""

from collections.abc import Mapping
from typing import Any

from side_ray.report import wording
from side_ray.report.paper.printed import Rows
from side_ray.report.verdict.sentences import FDR

BEYOND = ("excess", "excess_low", "excess_high", "distinct", "paid_samples", "paid_distinct")


def beyond_chance(condition: Mapping[str, Any]) -> dict[str, Any]:
    """What a condition shows beyond matches by chance, which AMS and UMS count too; without unseen images nothing.

    `excess` in % with `excess_low` and `excess_high`, 95 %; `distinct` training images at a false discovery rate of 5 %;
    `paid_samples` of those samples that cost as much as the cheapest condition, and `paid_distinct`, where the cost is known.
    """
    if condition.get("excess") is None:
        return {}
    low, high = condition["excess_ci"]
    row = {"excess": 100 * condition["excess"], "excess_low": 100 * low, "excess_high": 100 * high}
    row |= {"distinct": condition["discoveries"][FDR]["distinct"]}
    paid = condition.get("equal_cost")
    return row | ({"paid_samples": paid["samples"], "paid_distinct": paid["distinct"]} if paid else {})


def mean_beyond(chosen: Rows) -> dict[str, Any]:
    """The means of `beyond_chance` over scales; the interval of the excess encloses those of all."""
    known = [name for name in BEYOND if name in chosen[0]]
    row: dict[str, Any] = {name: sum(each[name] for each in chosen) / len(chosen) for name in known}
    if "excess" in row:
        row["excess_low"] = min(each["excess_low"] for each in chosen)
        row["excess_high"] = max(each["excess_high"] for each in chosen)
    return row


def beyond_lines(rows: Rows) -> list[str]:
    """What the rows of several conditions show beyond chance, at equal N_G and at equal cost. Empty without unseen images."""
    known = [row for row in rows if "excess" in row]
    if not known:
        return []
    names = [_named(row) for row in known]
    excess = ", ".join(
        f"{name} {row['excess']:.3f} ({row['excess_low']:.3f} … {row['excess_high']:.3f})"
        for name, row in zip(names, known, strict=True)
    )
    distinct = ", ".join(f"{name} {row['distinct']:.0f}" for name, row in zip(names, known, strict=True))
    lines = [
        "AMS and UMS count matches by chance too. Excess, matches of training images minus those of as many unseen images, at "
        f"the calibrated cut, % (95 %): {excess}.",
        f"Distinct training images at a false discovery rate of 5 %, {known[0]['n']:,} samples each: {distinct}.",
    ]
    if all("paid_samples" in row for row in known):
        paid = ", ".join(
            f"{name} {row['paid_distinct']:.0f} in {row['paid_samples']:,.0f}"
            for name, row in zip(names, known, strict=True)
        )
        lines.append(f"The same in as many samples as the same number of FLOPs pays for: {paid}.")
    return lines


def _named(row: Mapping[str, Any]) -> str:
    name = wording.method_name(row["method"])
    return f"{name} λ = {row['lambda']:g}" if row.get("lambda") else name


def beyond_by_scale(rows: Rows) -> Rows:
    """Rows of Figure 4's data for what the scales show beyond chance."""
    limits = {"excess": ("excess_low", "excess_high"), "distinct": ("", ""), "paid_distinct": ("", "")}
    found = []
    for score, (low, high) in limits.items():
        known = [row for row in rows if score in row]
        best = max(known, key=lambda row: row[score], default=None)
        found += [
            {
                "band": "calibrated cut" if score == "excess" else "FDR 5 %",
                "score": score,
                "lambda": row["lambda"],
                "value": row[score],
                "low": row.get(low),
                "high": row.get(high),
                "best": row is best,
            }
            for row in known
        ]
    return found
