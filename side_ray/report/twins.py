"""What a class condition does to memorization: the twins' numbers side by side, in words and in a figure."""

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
    """twins.md: a table per method of sampling, and a verdict on the paper's claim for each twin."""
    cut = f"{wording.SIMILARITIES[found['similarity']]} {'≥' if found['similarity'] == 'sscd' else '≤'} {found['cut']:.4g}"
    size = wording.count(found["train_size"])
    lines = [
        "# Class-conditional twins",
        "",
        f"Each twin is trained on the same {size} images with the same network, seed and number of steps; only the class "
        "condition differs. A sample draws its class from its seed, in the classes' training proportions. Copies are counted at "
        f"the unconditional DPM's calibrated cut ({cut}) for all, so that one yardstick measures them; 95% intervals.",
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
    """AMS and UMS (Eq. 14, 15) in the cumulative bands, which are the same for all."""
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
    """For each conditional twin whether plain sampling copies more than the unconditional DPM does; and whether SIDE adds."""
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
