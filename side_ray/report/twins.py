"""The effect of a class condition on memorization: the numbers of the twins side by side, as text and as a figure."""

from collections.abc import Mapping
from typing import Any

from side_ray.report import svg, wording
from side_ray.report.svg import Figure

Twins = Mapping[str, Any]
NAMES = {"none": "unconditional", "labels": "true labels", "random": "random labels", "unique": "unique labels"}
COLOURS = {
    "none": svg.MUTED,
    "labels": svg.METHOD_COLOURS["td"],
    "random": svg.METHOD_COLOURS["ti"],
    "unique": "#00795a",
}
MARKERS = {"none": "D", "labels": "o", "random": "s", "unique": "^"}
SIGNIFICANT = 0.05


def twins_text(found: Twins) -> str:
    """The content of twins.md: tables of all conditions, and for each twin whether its numbers support the paper's claim."""
    similarity = {"name": found["similarity"]}
    sign = "≤" if wording.lower_is_closer(similarity) else "≥"
    cut = f"{wording.similarity_name(similarity)} {sign} {found['cut']:.4g}"
    size = wording.count(found["train_size"])
    lines = [
        "# Class-conditional twins",
        "",
        f"All twins are trained on the same {size} images with the same network, seed and number of steps; only the class "
        "condition differs. The class of a sample is drawn with its seed, in the training proportions of the classes. Copies of "
        f"all twins are counted at the unconditional DPM's calibrated cut ({cut}), so that the counts can be compared. Intervals "
        "are 95%.",
        "",
        "| twin | classes | loss | method | λ | AMS | UMS by best match | held-out matches | paired p |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for twin in found["twins"]:
        for row in twin["conditions"]:
            lines.append(_row(twin, row))
    lines += ["", *_band_table(found), "", "## The paper's claim", "", *(f"- {line}" for line in twins_verdicts(found))]
    return "\n".join(lines) + "\n"


def _row(twin: Twins, row: Twins) -> str:
    at, test = row["common"], row.get("against_unconditional")
    classes = "–" if twin["classes"] is None else wording.count(twin["classes"])
    cells = [
        NAMES[twin["condition"]],
        classes,
        f"{twin['final_loss']:.4f}",
        wording.method_name(row["method"]),
        wording.scale_text(row["lambda"]),
        *(_share(at, stem) for stem in ("ams", "ums_best", "holdout")),
        "–" if test is None else f"{test['p_value']:.2g}",
    ]
    return "| " + " | ".join(cells) + " |"


def _share(entry: Twins, stem: str) -> str:
    value = entry["holdout_ams" if stem == "holdout" else stem]
    return f"{wording.percent(value)} {wording.count(entry[f'{stem}_count'])} ({wording.interval(entry[f'{stem}_ci'])})"


def _band_table(found: Twins) -> list[str]:
    """AMS and UMS (Eq. 14, 15) in the cumulative bands, which are the same for all twins."""
    names = list(found["twins"][0]["conditions"][0]["cumulative"])
    lines = [
        "AMS / UMS in the cumulative bands:",
        "",
        f"| twin | method | λ | {' | '.join(names)} |",
        "|---|---|---|" + "---|" * len(names),
    ]
    for twin in found["twins"]:
        for row in twin["conditions"]:
            shares = [
                f"{_share(row['cumulative'][name], 'ams')} / {_share(row['cumulative'][name], 'ums')}" for name in names
            ]
            method = f"{wording.method_name(row['method'])} | {wording.scale_text(row['lambda'])}"
            lines.append(f"| {NAMES[twin['condition']]} | {method} | {' | '.join(shares)} |")
    return lines


def twins_verdicts(found: Twins) -> list[str]:
    """For each conditional twin, plain sampling compared with that of the unconditional DPM; for each twin, SIDE compared with
    plain sampling."""
    plain = next(twin for twin in found["twins"] if twin["condition"] == "none")
    lines = []
    for twin in found["twins"]:
        random = next((row for row in twin["conditions"] if row["method"] == "random"), None)
        guided = [row for row in twin["conditions"] if row["method"] == "td"]
        if twin is not plain and random is not None:
            lines.append(_against(twin, random, next(row for row in plain["conditions"] if row["method"] == "random")))
        if random is not None and guided:
            best = max(guided, key=lambda row: row["common"]["ams"])
            lines.append(
                f"{NAMES[twin['condition']]}: SIDE at its best λ = {best['lambda']:g} gives {_share(best['common'], 'ams')} "
                f"copies, plain sampling {_share(random['common'], 'ams')}."
            )
    return lines


def _against(twin: Twins, row: Twins, plain: Twins) -> str:
    test = row["against_unconditional"]
    ours, theirs = row["common"]["ams"], plain["common"]["ams"]
    if test["p_value"] >= SIGNIFICANT:
        verdict = "no clear difference, so the claim that conditioning raises memorization is not supported here"
    elif ours > theirs:
        verdict = "more, as the paper claims"
    else:
        verdict = "LESS, against the paper's claim"
    return (
        f"{NAMES[twin['condition']]}: plain sampling gives {_share(row['common'], 'ams')} copies, the unconditional DPM "
        f"{_share(plain['common'], 'ams')}: {verdict} (McNemar on shared noise, p = {test['p_value']:.2g})."
    )


def twins_figure(found: Twins) -> Figure:
    """AMS of plain sampling and of SIDE over λ, a line per twin."""
    name, title = "twins", "AMS over the guidance scale, by class condition"
    said = []
    with svg.panel() as axes:
        for twin in found["twins"]:
            rows = sorted((row for row in twin["conditions"] if row["method"] != "ti"), key=lambda row: row["lambda"])
            shares = [100 * row["common"]["ams"] for row in rows]
            spread = [
                [share - 100 * row["common"]["ams_ci"][0] for row, share in zip(rows, shares, strict=True)],
                [100 * row["common"]["ams_ci"][1] - share for row, share in zip(rows, shares, strict=True)],
            ]
            kind = twin["condition"]
            scales = [row["lambda"] for row in rows]
            axes.errorbar(
                scales, shares, yerr=spread, color=COLOURS[kind], marker=MARKERS[kind], capsize=3, label=NAMES[kind]
            )
            said.append(
                f"{NAMES[kind]}: " + ", ".join(f"{s:.2f}% at λ={x:g}" for x, s in zip(scales, shares, strict=True))
            )
        axes.set_xlabel("guidance scale λ (0 = plain sampling)")
        axes.set_ylabel("copies (% of samples)")
        axes.set_ylim(bottom=0)
        svg.legend_above(axes)
        alt = f"{title}. " + ". ".join(said) + "."
        return Figure(name, "twins", title, "Bars: 95% intervals.", alt, svg.to_svg(axes, name, alt))
