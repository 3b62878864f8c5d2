"""Figures of how the networks were trained: loss over the steps, accuracy over the timestep."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import NullFormatter

from side_ray.report import svg, wording
from side_ray.report.svg import Figure, slug

STAGES = {
    "dpm": "DPM",
    "student": "SIDE student (sees t)",
    "lora": "LoRA surrogate",
    "teacher": "Teacher",
    "ol_ti": "OL-TI classifier",
}


def training_figures(curves: Sequence[Mapping[str, Any]]) -> Iterator[Figure]:
    """The loss of each stage, all accuracies over t in one figure, and the sizes of the clusters, as far as given."""
    for place, curve in enumerate(curves):
        if curve.get("steps") is not None and len(curve["steps"]):
            yield training_loss(curve, f"loss-{slug(str(curve['stage']))}-{place}")
    accuracies = [curve for curve in curves if curve.get("t") is not None and len(curve["t"])]
    if accuracies:
        yield accuracy_by_t(accuracies)
    yield from (cluster_sizes(curve) for curve in curves if curve.get("sizes"))


def training_loss(curve: Mapping[str, Any], name: str) -> Figure:
    """The training loss of one stage over its steps; a curve of many points also shows its running mean."""
    stage = STAGES.get(curve["stage"], str(curve["stage"]))
    steps, loss = np.asarray(curve["steps"], dtype=float), np.asarray(curve["loss"], dtype=float)
    window = len(loss) // 50
    title = f"Training loss, {stage}"
    alt = f"{title}: from {loss[0]:.3g} at step {steps[0]:,.0f} to {loss[-1]:.3g} at step {steps[-1]:,.0f}."
    with svg.panel() as axes:
        noisy = window > 2
        axes.plot(steps, loss, color=svg.INK, linewidth=0.7 if noisy else 1.6, alpha=0.3 if noisy else 1)
        if noisy:
            mean = np.convolve(loss, np.ones(window) / window, mode="valid")
            axes.plot(steps[window // 2 : window // 2 + len(mean)], mean, color=svg.INK, linewidth=1.8)
        if np.all(loss > 0) and loss.max() > 20 * loss.min():
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss")
        caption = f"Thin: as logged. Thick: running mean of {window} values." if noisy else ""
        return Figure(name, "training", title, caption, alt, svg.to_svg(axes, name, alt))


def accuracy_by_t(curves: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy of classifiers on noised images over the timestep, against chance."""
    name, title = "accuracy-by-t", "Classifier accuracy by timestep"
    names = [STAGES.get(curve["stage"], str(curve["stage"])) for curve in curves]
    ends = [
        f"{label}: {wording.percent(curve['accuracy'][0])} at t = {curve['t'][0]:g}, "
        f"{wording.percent(curve['accuracy'][-1])} at t = {curve['t'][-1]:g}."
        for label, curve in zip(names, curves, strict=True)
    ]
    alt = f"{title}. " + " ".join(ends)
    colours = {"student": svg.METHOD_COLOURS["td"], "ol_ti": svg.METHOD_COLOURS["ti"]}
    with svg.panel() as axes:
        for place, (label, curve) in enumerate(zip(names, curves, strict=True)):
            colour = colours.get(curve["stage"], svg.OTHER_COLOURS[place % len(svg.OTHER_COLOURS)])
            marker = [*svg.METHOD_MARKERS.values(), *svg.OTHER_MARKERS][place % 6]
            axes.plot(
                curve["t"], 100 * np.asarray(curve["accuracy"]), color=colour, marker=marker, label=label, clip_on=False
            )
            if curve.get("chance") is not None:
                axes.axhline(100 * curve["chance"], color=svg.MUTED, linestyle=":", label="" if place else "chance")
        axes.set_xlabel("timestep t (0 = clean image)")
        axes.set_ylabel("accuracy (%)")
        axes.set_ylim(0, 100)
        svg.legend_above(axes)
        return Figure(name, "training", title, "", alt, svg.to_svg(axes, name, alt))


def cluster_sizes(found: Mapping[str, Any]) -> Figure:
    """Images per cluster of the synthetic set, largest first; dropped clusters have another colour.

    Args:
        found: `sizes` of all clusters, and `kept`, the indices of those that passed the cohesion filter.
    """
    name, title = "cluster-sizes", "Clusters of the synthetic set"
    sizes, kept = np.asarray(found["sizes"]), np.zeros(len(found["sizes"]), bool)
    kept[np.asarray(found["kept"], int)] = True
    order = np.argsort(-sizes, kind="stable")
    alt = (
        f"{title}: {kept.sum()} of {len(sizes)} are kept, of {sizes[kept].min():,} to {sizes[kept].max():,} images; "
        f"{sizes[~kept].sum():,} of {sizes.sum():,} images are in clusters that were dropped as too loose."
    )
    places = np.arange(len(sizes))
    with svg.panel() as axes:
        for mask, colour, label in ((kept, svg.METHOD_COLOURS["td"], "kept"), (~kept, svg.MUTED, "dropped")):
            chosen = mask[order]
            if chosen.any():
                axes.bar(places[chosen], sizes[order][chosen], width=0.8, color=colour, label=label)
        axes.set_xlabel("cluster, largest first")
        axes.set_ylabel("images")
        svg.legend_above(axes)
        data = [("kept" if kept[i] else "dropped", str(i), int(sizes[i])) for i in order]
        return Figure(name, "training", title, "", alt, svg.to_svg(axes, name, alt, data))
