"""The paper's results by guidance scale, from the conditions of one audit: Tables 1, 3 and 4, and Figure 4."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from side_ray.report import wording
from side_ray.report.paper import draw
from side_ray.report.paper.beyond import BEYOND, beyond_by_scale, beyond_chance, beyond_lines, mean_beyond
from side_ray.report.paper.printed import Recomputed, Rows, dataset_of, paragraph, printed, where

AVERAGED = (5.0, 9.0)
"""The range of λ over which the paper's Table 1 takes the mean, and its Table 3 the maximum."""
TOPS = ("0.01", "0.05", "0.1", "0.5", "1", "5", "10")
METHODS = ("random", "ti", "td")
NOT_OURS = "Not comparable: the percentages. {what} is not one of the paper's data sets and has its own bands."


def rows_of(metrics: Mapping[str, Any]) -> Rows:
    """One row per condition: `method`, `lambda`, `n`, for each band `ams_…`, `ums_…` in % with their intervals, `top_…`."""
    rows = []
    for each in metrics["conditions"]:
        row = {"method": each["method"], "lambda": float(each["lambda"]), "n": each["n"]}
        for name, band in each["bands"].items():
            for score in ("ams", "ums"):
                low, high = band[f"{score}_ci"]
                row |= {f"{score}_{name}": 100 * band[score]}
                row |= {f"{score}_{name}_low": 100 * low, f"{score}_{name}_high": 100 * high}
            row |= {f"{score}_count_{name}": band[f"{score}_count"] for score in ("ams", "ums")}
        row |= beyond_chance(each)
        rows.append(row | {f"top_{share}": mean for share, mean in each["top_mean"].items()})
    return rows


def averaged(rows: Rows, method: str) -> Rows:
    """The conditions of a method with 5 ≤ λ ≤ 9, over which the paper averages; all of them if none is in that range."""
    mine = where(rows, method=method)
    return [row for row in mine if AVERAGED[0] <= row["lambda"] <= AVERAGED[1]] or mine


def table1_rows(rows: Rows, bands: Sequence[str]) -> Rows:
    """Table 1: AMS and UMS in % of each method in each band, the mean over its scales (`averaged`).

    `…_low` and `…_high` enclose the 95 % intervals of all scales. The scales share their noise, so the interval of the mean is
    not assumed to be narrower.
    """
    table = []
    for band in bands:
        for method in METHODS:
            chosen = averaged(rows, method)
            if not chosen:
                continue
            row: dict[str, Any] = {"method": method, "band": band, "lambdas": _listed(chosen), "n": chosen[0]["n"]}
            for score in ("ams", "ums"):
                row[score] = _mean(chosen, f"{score}_{band}")
                if f"{score}_{band}_low" in chosen[0]:
                    row[f"{score}_low"] = min(each[f"{score}_{band}_low"] for each in chosen)
                    row[f"{score}_high"] = max(each[f"{score}_{band}_high"] for each in chosen)
            table.append(row | mean_beyond(chosen))
    return table


def table3_rows(rows: Rows, larger_is_closer: bool) -> Rows:
    """Table 3: mean similarity of the best p % of the samples, for SIDE the closest over its scales (`averaged`)."""
    table = []
    closest = max if larger_is_closer else min
    for method in ("random", "td"):
        chosen = averaged(rows, method)
        names = [f"top_{share}" for share in TOPS if chosen and f"top_{share}" in chosen[0]]
        if chosen:
            tops = {name: closest(row[name] for row in chosen) for name in names}
            table.append({"method": method, "lambdas": _listed(chosen), "n": chosen[0]["n"], **tops})
    return table


def best_scales(rows: Rows, bands: Sequence[str]) -> Rows:
    """Figure 4's caption: for each band and score the λ (0 = Random) with the highest value, and the smallest among equals."""
    guided = [row for row in rows if row["method"] in ("random", "td")]
    found = []
    for band in bands:
        for score in ("ams", "ums"):
            name = f"{score}_{band}"
            best = max(sorted(guided, key=lambda row: row["lambda"]), key=lambda row: row[name])
            found.append({"band": band, "score": score, "lambda": best["lambda"], "value": best[name]})
    return found


def table1(metrics: Mapping[str, Any]) -> Recomputed:
    """Table 1 of a run: three methods × three bands."""
    bands = list(metrics["similarity"]["bands"]["bands"])
    table = table1_rows(rows_of(metrics), bands)
    dataset = dataset_of(metrics)
    lines = [_over(table)]
    for band in bands:
        for score in ("ams", "ums"):
            mine = {row["method"]: row[score] for row in where(table, band=band)}
            told = ", ".join(f"{wording.method_name(method)} {value:.3f}" for method, value in mine.items())
            lines.append(f"{band} {score.upper()} %: {told}. {_order(mine, band, score, dataset)}")
    lines += beyond_lines(where(table, band=bands[0]))
    if dataset is None:
        lines.append(NOT_OURS.format(what=_source(metrics)))
    else:
        for row in where(printed("table1"), dataset=dataset):
            lines += [_held_against(ours, row) for ours in where(table, band=row["band"], method=row["method"])]
    title = "Table 1: AMS and UMS of three methods"
    return Recomputed("table1", title, table, draw.by_band(table, bands, title), paragraph(lines))


def table3(metrics: Mapping[str, Any]) -> Recomputed:
    """Table 3 of a run."""
    larger = not wording.lower_is_closer(metrics["similarity"])
    table = table3_rows(rows_of(metrics), larger)
    names = [name for name in table[0] if name.startswith("top_")]
    lines = ['"Top p %" is the mean of the best p % of the values, not a percentile.', _over(table)]
    tops = {row["method"]: row for row in table}
    if "td" in tops and "random" in tops:
        closer = [name for name in names if (tops["td"][name] > tops["random"][name]) == larger]
        said = "all" if len(closer) == len(names) else ", ".join(closer) or "none"
        lines.append(f"The paper's SIDE is closer than Random for every p. Here it is for: {said}.")
    dataset = dataset_of(metrics)
    if dataset and larger:
        for row in where(printed("table3"), dataset=dataset):
            mine, theirs = tops.get(row["method"], {}), {key: row[key] for key in row if key.startswith("top_")}
            told = ", ".join(
                f"{key[4:]} %: {mine[key]:.3f} (paper {value:.3f})" for key, value in theirs.items() if key in mine
            )
            lines.append(f"{wording.method_name(row['method'])}: {told}.")
    else:
        lines.append("Not comparable: the values, which in the paper are SSCD cosines on its own data sets.")
    title = "Table 3: mean similarity of the closest samples"
    return Recomputed("table3", title, table, draw.tops(table, names, title), paragraph(lines))


def table4(metrics: Mapping[str, Any]) -> Recomputed:
    """Table 4 of a run: a row per λ, AMS and UMS of the middle band and "Top p %"."""
    bands = list(metrics["similarity"]["bands"]["bands"])
    middle = "mid" if "mid" in bands else bands[len(bands) // 2]
    kept = [row for row in rows_of(metrics) if row["method"] in ("random", "td")]
    names = [f"top_{share}" for share in TOPS if f"top_{share}" in kept[0]]
    wanted = ["lambda", "n", f"ams_{middle}", f"ums_{middle}", *names, *(name for name in BEYOND if name in kept[0])]
    kept.sort(key=lambda row: row["lambda"])
    table = [{name: row[name] for name in wanted} for row in kept]
    lines = [
        f"{len(table)} guidance scales with {table[0]['n']:,} samples each; AMS and UMS in %, {middle} band.",
        *_best_against_paper(best_scales(kept, [middle]), _random(kept)),
        "The paper's Table 4 has its highest mid AMS at λ = 15 (1.516 %, 2.5 × Random) and its highest UMS at λ = 9.",
        *beyond_lines(kept),
        _whether_comparable(metrics),
    ]
    title = f"Table 4: the {middle} band by guidance scale"
    return Recomputed("table4", title, table, draw.scores_by_scale(kept, [middle], title), paragraph(lines))


def figure4(metrics: Mapping[str, Any]) -> Recomputed:
    """Figure 4 of a run: AMS and UMS over λ in every band, and the best λ of each."""
    bands = list(metrics["similarity"]["bands"]["bands"])
    kept = [row for row in rows_of(metrics) if row["method"] in ("random", "td")]
    best = best_scales(kept, bands)
    marks = {(row["band"], row["score"]): row["lambda"] for row in best}
    table = [
        {
            "band": band,
            "score": score,
            "lambda": row["lambda"],
            "value": row[f"{score}_{band}"],
            "low": row[f"{score}_{band}_low"],
            "high": row[f"{score}_{band}_high"],
            "best": row["lambda"] == marks[band, score],
        }
        for band in bands
        for score in ("ams", "ums")
        for row in sorted(kept, key=lambda row: row["lambda"])
    ]
    kept.sort(key=lambda row: row["lambda"])
    table += beyond_by_scale(kept)
    lines = [*_best_against_paper(best, _random(kept)), *beyond_lines(kept)]
    for row in printed("fig4"):
        lines.append(
            f"The paper's best λ of 0 … 50, {row['band']} band: {row['ams']:g} for AMS, {row['ums']:g} for UMS."
        )
    lines.append("For the mid band, the paper's own Table 4 gives 15 (AMS) and 9 (UMS) instead of 13.")
    largest = max(row["lambda"] for row in kept)
    turned = [f"{row['band']} {row['score'].upper()}" for row in best if 0 < row["lambda"] < largest]
    lines.append(
        f"The paper's curves rise and then fall. Here the best λ lies inside the grid for: {', '.join(turned) or 'none'}."
    )
    lines.append(_whether_comparable(metrics))
    title = "Figure 4: AMS and UMS by guidance scale"
    return Recomputed("fig4", title, table, draw.scores_by_scale(kept, bands, title), paragraph(lines))


def _random(rows: Rows) -> Mapping[str, Any] | None:
    return next(iter(where(rows, method="random")), None)


def _mean(rows: Rows, name: str) -> float:
    return float(sum(row[name] for row in rows) / len(rows))


def _listed(rows: Rows) -> str:
    return " ".join(f"{row['lambda']:g}" for row in sorted(rows, key=lambda row: row["lambda"]))


def _over(table: Rows) -> str:
    said = {row["method"]: row["lambdas"] for row in table if row["method"] != "random"}
    told = "; ".join(f"{wording.method_name(method)} over λ = {scales}" for method, scales in said.items())
    return (
        f"Random is λ = 0; {told}. The paper takes λ = 5 … 9. N_G = {table[0]['n']:,} (paper: 50,000; CIFAR-10 10,000)."
    )


def _order(mine: Mapping[str, float], band: str, score: str, dataset: str | None) -> str:
    """Whether the order of the methods is the paper's."""
    wanted = (
        where(printed("table1"), dataset=dataset or "CelebA-HQ-FI", band=band) if band in ("low", "mid", "high") else []
    )
    theirs = {row["method"]: row[score] for row in wanted if row["method"] in mine}
    if len(theirs) < 2:
        return ""
    ranked = sorted(theirs, key=lambda method: -theirs[method])
    agrees = all(mine[a] >= mine[b] for a, b in itertools.pairwise(ranked))
    order = " > ".join(wording.method_name(method) for method in ranked)
    gain = ""
    if mine.get("random") and theirs.get("random") and "td" in mine:
        gain = f" SIDE / Random: {mine['td'] / mine['random']:.2f} (paper {theirs['td'] / theirs['random']:.2f})."
    return f"The paper's order ({order}) {'holds' if agrees else 'does not hold'} here.{gain}"


def _held_against(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    inside = [ours[f"{score}_low"] <= theirs[score] <= ours[f"{score}_high"] for score in ("ams", "ums")]
    told = " and ".join(
        f"{score.upper()} {ours[score]:.3f} (paper {theirs[score]:.3f}, {'inside' if ok else 'outside'} the 95 % intervals)"
        for score, ok in zip(("ams", "ums"), inside, strict=True)
    )
    return f"{wording.method_name(ours['method'])}, {ours['band']}: {told}."


def _best_against_paper(best: Rows, random: Mapping[str, Any] | None) -> list[str]:
    lines = []
    for row in best:
        base = random[f"{row['score']}_{row['band']}"] if random else 0
        gain = f", {row['value'] / base:.2f} × Random" if base else ""
        lines.append(
            f"Best λ for {row['band']} {row['score'].upper()}: {row['lambda']:g} ({row['value']:.3f} %{gain}). It is the "
            "largest of many values, so it is slightly overestimated."
        )
    return lines


def _whether_comparable(metrics: Mapping[str, Any]) -> str:
    dataset = dataset_of(metrics)
    if dataset == "CelebA-HQ-FI":
        return "The data set is that of the paper's Table 4 and Figure 4."
    return NOT_OURS.format(what=dataset or _source(metrics)) + " The paper gives these numbers only for CelebA-HQ-FI."


def _source(metrics: Mapping[str, Any]) -> str:
    config = (metrics.get("provenance") or {}).get("config") or {}
    return str((config.get("data") or {}).get("source", "this data"))
