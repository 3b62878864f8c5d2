"""Table 2 and Figure 7: AMS and UMS against the number of classes C."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from side_ray.errors import UserError
from side_ray.report.paper import draw
from side_ray.report.paper.printed import Recomputed, Rows, paragraph, printed

SCORES = {"ams": "AMS", "ums": "UMS at its own N_G", "ums_equal": "UMS at equal N_G"}
BEYOND = {"excess": "Excess", "distinct_equal": "Distinct images at FDR 5 %, over N_G, at equal N_G"}
"""What is beyond matches by chance."""


@dataclass(frozen=True)
class Fit:
    """A least-squares line y = intercept + slope · x through n points."""

    slope: float
    intercept: float
    r2: float
    correlation: float
    n: int
    mean: float
    spread: float
    """Σ (x − mean)²."""
    residual: float
    """Standard deviation of the residuals, with n − 2 degrees of freedom."""

    def at(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The line at x, and the limits of its 95 % confidence band at each x, for the mean and not for a new point."""
        line = self.intercept + self.slope * x
        error = self.residual * np.sqrt(1 / self.n + (x - self.mean) ** 2 / self.spread)
        half = float(stats.t.ppf(0.975, self.n - 2)) * error
        return line, line - half, line + half

    def slope_interval(self) -> tuple[float, float]:
        """95 % interval of the slope."""
        half = float(stats.t.ppf(0.975, self.n - 2)) * self.residual / np.sqrt(self.spread)
        return self.slope - half, self.slope + half


def fit_line(x: np.ndarray, y: np.ndarray) -> Fit:
    """Fit a line.

    Args:
        x, y: float [n].

    Raises:
        UserError: fewer than three different x, so that the line has no standard error.
    """
    if len(np.unique(x)) < 3:
        raise UserError("sweep.classes: a line needs at least three numbers of classes; add some")
    found = stats.linregress(x, y)
    slope, intercept = float(found.slope), float(found.intercept)
    residual = float(np.sqrt(((y - intercept - slope * x) ** 2).sum() / (len(x) - 2)))
    # The correlation of a constant score is undefined.
    r = float(found.rvalue) if np.ptp(y) > 0 else 0.0
    mean = float(x.mean())
    return Fit(slope, intercept, r**2, r, len(x), mean, float(((x - mean) ** 2).sum()), residual)


def fits_of(table: Rows) -> dict[str, Fit]:
    """The lines of every score of the table over `classes`."""
    classes = np.array([row["classes"] for row in table], float)
    known = [score for score in (*SCORES, *BEYOND) if score in table[0]]
    return {score: fit_line(classes, np.array([row[score] for row in table], float)) for score in known}


def classes_table(name: str, table: Rows, about: Mapping[str, Any]) -> Recomputed:
    """Table 2 or Figure 7.

    Args:
        name: table2 or fig7. The rows of the first are the fits, those of the second the points.
        table: a row per C: `classes`, `kept`, `n`, `ams`, `ums`, `ums_equal`, `equal_n`, and where it is known `excess` and
            `distinct_equal` (scores as fractions).
        about: `band`, `scale` (λ), `per_class`, `dataset` (the paper's name, None where it is none of its own).
    """
    fits = fits_of(table)
    theirs = {row["score"]: row for row in printed("table2")}
    lines = [
        f"{about['band']} band, λ = {about['scale']:g}, {about['per_class']:,} images per class, so N_G grows with C. UMS at "
        "different N_G cannot be compared, whether it rises or falls; UMS at equal N_G "
        f"({int(table[0]['equal_n']):,}, by rarefaction) can. Scores are fractions.",
    ]
    rows = []
    labels = {score: label for score, label in (SCORES | BEYOND).items() if score in fits}
    for score, label in labels.items():
        fit, paper = fits[score], theirs.get(score)
        low, high = fit.slope_interval()
        rows.append(
            {
                "score": score,
                "slope": fit.slope,
                "slope_low": low,
                "slope_high": high,
                "intercept": fit.intercept,
                "r2": fit.r2,
                "correlation": fit.correlation,
                "points": fit.n,
            }
        )
        sign = "positive" if low > 0 else "negative" if high < 0 else "not distinguishable from zero"
        line = (
            f"{label}: slope {1e5 * fit.slope:.2f} (95 % {1e5 * low:.2f} … {1e5 * high:.2f}) × 10⁻⁵ per class, {sign}; "
        )
        line += f"intercept {fit.intercept:.4f}, R² {fit.r2:.3f}, correlation {fit.correlation:.2f}."
        if paper:
            agrees = "is confirmed" if low > 0 else "is not confirmed" if high < 0 else "cannot be decided"
            line += (
                f" Paper: {1e5 * paper['slope']:.1f}, {paper['intercept']:.3f}, {paper['r2']:.3f}, "
                f"{paper['correlation']:.2f}. The paper's rise with C {agrees} here."
            )
        lines.append(line)
    if "excess" in fits:
        lines.append(
            "AMS and UMS count matches by chance too; excess is without as many matches of unseen images, at the calibrated cut. "
            "A sample costs the same at every C, so equal N_G is equal cost; training a student for each C is not counted."
        )
    if about["dataset"] != "CelebA-HQ-FI":
        lines.append("Not comparable: slope and intercept, which the paper gives for CelebA-HQ-FI.")
    title = "AMS and UMS by the number of classes"
    drawing = draw.fitted(table, fits, labels, title)
    return Recomputed(name, title, rows if name == "table2" else list(table), drawing, paragraph(lines))
