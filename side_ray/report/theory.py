"""The results of the theory study as text and as figures."""

from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.ticker import NullFormatter

from side_ray.report import svg, wording
from side_ray.report.svg import Figure

Theory = Mapping[str, Any]
LABELLINGS = {"true": "true labels", "random": "random labels", "cluster": "clusters"}
COLOURS = {"true": svg.METHOD_COLOURS["td"], "random": svg.MUTED, "cluster": svg.METHOD_COLOURS["ti"]}
MARKERS = {"true": "o", "random": "D", "cluster": "s"}


def theory_text(found: Theory) -> str:
    """The content of theory.md: what was measured, and which of the paper's statements hold on this model."""
    parts = [
        ["# The theory on this model", "", _setting(found)],
        ["## How far the model is from its smoothed training set", "", *_divergence(found)],
        ["## Pointwise memorization", "", *_point(found)],
        ["## Theorem 1: pointwise and semantic memorization", "", *_theorem_1(found)],
        ["## Proposition 1 and Theorem 2: what labels do to the latents", "", *_labels(found)],
    ]
    return "\n".join("\n".join(lines) + "\n" for lines in parts)


def verdicts(found: Theory) -> list[str]:
    """The conclusions of the text for the terminal, one line each."""
    least = min(found["divergence"], key=lambda entry: entry["value"])
    lines = [
        f"KL(q_ε ‖ p_θ) is least at ε = {least['epsilon']:.2g} (a variance): {_plus_minus(least)} nats, "
        f"{least['per_dimension']:.3g} per dimension"
    ]
    return lines + [line.removeprefix("- ") for line in _labels(found) if line.startswith("- ")]


def _setting(found: Theory) -> str:
    part = "" if found["images"] == found["members"] else f", drawn from {wording.count(found['members'])} members"
    condition = "" if found["condition"] == "none" else f", trained with a class condition ({found['condition']})"
    return (
        f"Model: `{found['dpm']}` ({found['kind']}{condition}). Training set: {wording.count(found['images'])} images{part}, "
        f"of {wording.count(found['dimension'])} dimensions, in [-1, 1]. All values are in nats. ε is a variance, as in Eq. 2; "
        f"the later edition's ε² is the same number. The least noise of the model's schedule has variance "
        f"{found['own_variance']:.3g}. p_θ is the density that the probability flow gives at that level, without the sampler's "
        f"clamp to [-1, 1]. ± is one standard error. The flow was solved in {found['ode_steps']} Runge-Kutta steps with "
        f"{found['probes']} probe(s) of Hutchinson's trace estimate, on {wording.count(found['points'])} points each."
    )


def _divergence(found: Theory) -> list[str]:
    given = "p_θ(x|y), each point with its image's class" if found["condition"] != "none" else "p_θ(x)"
    lines = [
        f"KL(q_ε ‖ p_θ), where q_ε is the training set with Gaussian noise of variance ε, and p_θ is {given} at the same noise "
        "level. ε is reached on the model's own noise schedule, where the probability flow is well-behaved. The divergence is "
        "zero if the model is its smoothed training set, so *smaller* means more memorization.",
        "",
        "| ε | KL | per dimension | exact |",
        "|---|---|---|---|",
    ]
    for entry in found["divergence"]:
        exact = f"{entry['exact']['value']:.4g}" if "exact" in entry else "–"
        lines.append(f"| {_epsilon(entry, found)} | {_plus_minus(entry)} | {entry['per_dimension']:.3g} | {exact} |")
    return lines


def _point(found: Theory) -> list[str]:
    if found["point_memorization"] is None:
        return ["A class-conditional model gives only p_θ(x|y); M_point needs the density over all classes."]
    entropy = found["point_memorization"]["entropy"]
    lines = [
        "M_point (Eq. 1) per training image, from the model's own samples and their density. It grows without bound as ε "
        "falls, even for a perfect memorizer, so it can only be compared between models at the same ε. Entropy of p_θ: "
        f"{_plus_minus(entropy)} nats.",
        "",
        "| ε | M_point / image |",
        "|---|---|",
    ]
    entries = found["point_memorization"]["per_image"]
    return lines + [f"| {_epsilon(each, found)} | {_plus_minus(each)} |" for each in entries]


def _epsilon(entry: Mapping[str, float], found: Theory) -> str:
    own = " (the model's own)" if entry["epsilon"] == found["own_variance"] else ""
    return f"{entry['epsilon']:.3g}{own}"


def _plus_minus(entry: Mapping[str, float]) -> str:
    return f"{entry['value']:.5g} ± {entry['error']:.2g}"


def _theorem_1(found: Theory) -> list[str]:
    regular = [each for each in found["latents"] if each["gaussian"]]
    if not regular:
        return [
            "No latent has an invertible covariance (there are fewer latents than dimensions), so Eq. 4 has no value."
        ]
    lines = [
        "M_point contains *minus* the entropy, so the plus sign that the paper prints in Eq. 4 is wrong: the value is "
        "1/(2ε) − Tr(Σ⁻¹)/2. Even this is a bound, not the derivative: Σ can change in many directions, and Eq. 67 sums over the "
        "principal axes. The table shows the derivative as Σ grows equally in all directions, in closed form (Eq. 137 and 58) "
        "and by finite differences.",
        "",
        "| latent | t | ε | printed | corrected (bound) | derivative | by differences | M_point closed / Monte-Carlo |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in regular:
        for row in each["gaussian"]:
            d = row["derivative"]
            lines.append(
                f"| {each['latent']} | {each['t']} | {row['epsilon']:.3g} | {d['printed']:.5g} | {d['corrected']:.5g} | "
                f"{d['isotropic']:.6g} | {row['derivative_numerical']:.6g} | "
                f"{row['point']:.5g} / {row['point_monte_carlo']:.5g} |"
            )
    rows = [row for each in regular for row in each["gaussian"]]
    falls = sum(row["derivative"]["isotropic"] <= 0 for row in rows)
    narrow = sum(row["derivative"]["least"] <= 0 for row in rows)
    end = "it is positive in all of them" if not falls else f"it is negative in {falls} of them, where ε is too large"
    worst = f"If Σ grows only in its narrowest direction, it is negative in {narrow}: there ε is above the least eigenvalue."
    return [*lines, "", f"Theorem 1 requires a positive derivative: of {len(rows)} rows {end}. {worst}"]


def _labels(found: Theory) -> list[str]:
    lines = []
    for each in found["latents"]:
        for name, labels in each["labellings"].items():
            lines.append(f"- {each['latent']} at t = {each['t']}, {LABELLINGS[name]}: {_labelling(labels)}")
    return [
        "Eq. 7 (a class is tighter around its own mean) holds for every label by definition of the mean. The paper proves Eq. 8 "
        "(a class is no wider than the whole) and Theorem 2 (Eq. 9, with its limit Eq. 145) for every label, but they hold only "
        "on average over the labels; each failure is named here. Even labels that are independent of the images explain about "
        "(C − 1)/(N − 1) of the variance of N images, which is the whole effect of random labels.",
        "",
        *lines,
    ]


def _labelling(labels: Theory) -> str:
    of = labels["labels"]
    failing = {
        "Eq. 7": [each["label"] for each in of if not each["eq_7"]],
        "Eq. 8": [each["label"] for each in of if not each["eq_8"]],
        "Theorem 2": [each["label"] for each in of if not each["theorem_2"]],
    }
    fails = "; ".join(f"{name} fails for {_some(which)} of {len(of)}" for name, which in failing.items() if which)
    holds = labels["pooled_ratio"] <= 1 and labels["mean_ratio"] <= 1
    average = "the average holds" if holds else "THE AVERAGE FAILS"
    return (
        f"{fails or f'both inequalities and Theorem 2 hold for each of {len(of)} labels'}; {average}: mean Tr Σ_c / Tr Σ = "
        f"{1 - labels['explained']:.3f}, ratio of Eq. 145 {labels['pooled_ratio']:.3f} pooled, "
        f"{labels['mean_ratio']:.3f} averaged"
    )


def _some(labels: list[int]) -> str:
    shown = ", ".join(map(str, labels[:5])) + ("…" if len(labels) > 5 else "")
    return f"{len(labels)} label{'s' if len(labels) > 1 else ''} ({shown})"


def theory_figures(found: Theory) -> Iterator[Figure]:
    """The divergence over ε, and for each latent the width of each class relative to the whole."""
    yield divergence_figure(found)
    for each in found["latents"]:
        yield label_figure(each)


def divergence_figure(found: Theory) -> Figure:
    """KL(q_ε ‖ p_θ) per dimension over ε."""
    name, title = "divergence", "KL(q_ε ‖ p_θ) per dimension"
    d, rows = found["dimension"], found["divergence"]
    alt = f"{title}. " + " ".join(f"ε = {row['epsilon']:.3g}: {row['value'] / d:.3g}." for row in rows)
    with svg.panel() as axes:
        axes.errorbar(
            [row["epsilon"] for row in rows],
            [row["value"] / d for row in rows],
            yerr=[1.96 * row["error"] / d for row in rows],
            color=svg.METHOD_COLOURS["td"],
            marker="o",
            capsize=3,
        )
        axes.axvline(found["own_variance"], color=svg.MUTED, linestyle=":", label="the model's own noise")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(bottom=min(0, *(row["value"] / d for row in rows)))
        axes.set_xlabel("ε, variance of the smoothed training set")
        axes.set_ylabel("nats per dimension")
        svg.legend_above(axes)
        return Figure(name, "theory", title, "Bars: 95% intervals.", alt, svg.to_svg(axes, name, alt))


def label_figure(each: Theory) -> Figure:
    """Tr Σ_c / Tr Σ of every label and its average, for each labelling; above 1 the inequality fails."""
    kind = svg.slug(each["latent"])
    name = f"labels-{kind}-t{each['t']}"
    title = f"Width of a class over the whole, {each['latent']} at t = {each['t']}"
    said = [
        f"{LABELLINGS[key]}: {min(row['trace'] for row in labels['labels']) / each['trace']:.2f} to "
        f"{max(row['trace'] for row in labels['labels']) / each['trace']:.2f}, mean {1 - labels['explained']:.2f}."
        for key, labels in each["labellings"].items()
    ]
    with svg.panel() as axes:
        for key, labels in each["labellings"].items():
            widths = sorted(row["trace"] / each["trace"] for row in labels["labels"])
            places = [(place + 0.5) / len(widths) for place in range(len(widths))]
            axes.plot(places, widths, color=COLOURS[key], marker=MARKERS[key], label=LABELLINGS[key])
            axes.axhline(1 - labels["explained"], color=COLOURS[key], linestyle="--", linewidth=1)
        axes.axhline(1, color=svg.INK, linewidth=1)
        axes.set_xlabel("labels, from the narrowest to the widest")
        axes.set_ylabel("Tr Σ_c / Tr Σ")
        axes.set_xticks([])
        svg.legend_above(axes)
        alt = f"{title}. " + " ".join(said)
        caption = "Dashed: averages over the labels. Above 1, Eq. 8 fails for that label."
        return Figure(name, "theory", title, caption, alt, svg.to_svg(axes, name, alt))
