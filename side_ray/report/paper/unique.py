"""Figure 5: the measured and the expected number of unique images by N_G."""

from collections.abc import Mapping
from typing import Any

from side_ray.report import wording
from side_ray.report.paper import draw
from side_ray.report.paper.printed import Recomputed, paragraph
from side_ray.statistics.growth import Growth


def figure5(curves: Mapping[str, Growth], metrics: Mapping[str, Any], cut: str) -> Recomputed:
    """Figure 5 of a run.

    Args:
        curves: by the condition's name.
        cut: which matches count, in words.
    """
    rows = [
        {"condition": name, "m": int(m), "measured": int(found), "expected": mean, "low": low, "high": high}
        for name, curve in curves.items()
        for m, found, mean, low, high in zip(
            *(getattr(curve, part).tolist() for part in ("m", "measured", "expected", "low", "high")), strict=True
        )
    ]
    lines = [
        f"Unique training images among the first N_G samples ({cut}); the expectation of Eq. 150 with p_γ(i) from all samples, "
        "in its exact finite-sample form; and the band that holds 95 % of all orders of the samples at every N_G simultaneously."
    ]
    for name, curve in curves.items():
        last, half = curve.measured[-1], curve.measured[len(curve.m) // 2]
        inside = "inside" if curve.inside else "NOT inside"
        lines.append(
            f"{name}: {half:.0f} unique images after {curve.m[len(curve.m) // 2]:,.0f} samples, {last:.0f} after "
            f"{curve.m[-1]:,.0f}; the measured curve lies {inside} the simultaneous 95 % band (p = {curve.p_value:.3f})."
        )
        if half:
            lines.append(
                f"{name}: twice the samples give {last / half:.2f} times the images, so UMS falls as N_G grows. Compare it only "
                "at equal N_G, as the paper says."
            )
    lines.append("Not comparable: the paper's Figure 5 prints no numbers.")
    title = f"Figure 5: unique images by N_G ({wording.similarity_name(metrics['similarity'])})"
    return Recomputed("fig5", title, rows, draw.growth(curves, title), paragraph(lines))
