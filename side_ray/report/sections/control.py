"""Whether matches come from the audited model or from the classifier that guides it."""

from collections.abc import Mapping
from typing import Any

from side_ray.report import wording
from side_ray.report.sections import PageData, PageSection


class Control(PageSection):
    heading = "Is it the model or the classifier?"
    contents = "Model or classifier"

    def values(self, data: PageData) -> dict[str, Any] | None:
        control = data.metrics.get("control")
        return {"verdict": control_verdict(data.metrics), "control": control} if control else None


def control_verdict(metrics: Mapping[str, Any]) -> str:
    """Whether a DPM of other images, guided by the same classifiers, matches the audited training set, in words."""
    control = metrics["control"]
    rows = control["conditions"]
    size = wording.count(control["members"])
    what = f"A DPM trained on {size} other images and guided by the same classifiers"
    rising = [row for row in rows if row["p_adjusted"] < 0.05]
    if rising:
        names = "; ".join(
            f"{wording.condition_name(row)}: {row['calibrated']['ams_count']} of {wording.count(row['n'])} against "
            f"{row['calibrated']['holdout_count']}"
            for row in rising
        )
        return (
            f"{what} matches the audited training images MORE often than images that no model was trained on ({names}). So part "
            "of what SIDE extracts here may come from the classifier, and the audited model's own share is below its count."
        )
    most = max(rows, key=lambda row: row["calibrated"]["ams"])
    band = most["calibrated"]
    smallest = min(row["p_adjusted"] for row in rows)
    text = (
        f"{what} does not match the audited training images measurably more often than images that no model was trained on "
        f"(smallest p {smallest:.2f}, adjusted for the number of conditions): at most {wording.percent(band['ams'])} of its "
        f"samples in any condition ({band['ams_count']} of {wording.count(most['n'])}, 95% interval "
        f"{wording.interval(band['ams_ci'])}; {wording.condition_name(most)}), against {band['holdout_count']} held-out "
        "matches of the same samples. "
    )
    return text + _audited(metrics, rows)


def _audited(metrics: Mapping[str, Any], rows: list[Mapping[str, Any]]) -> str:
    """The audited DPM's best guided condition compared with the control's upper limit in the same condition."""
    own = {(each["method"], each["lambda"]): each["calibrated"] for each in metrics["conditions"]}
    guided = [row for row in rows if row["lambda"] and (row["method"], row["lambda"]) in own]
    if not guided:
        return "The matches do not come from the classifier."
    best = max(guided, key=lambda row: own[row["method"], row["lambda"]]["ams"])
    band, ceiling = own[best["method"], best["lambda"]], best["calibrated"]["ams_ci"][1]
    beside = (
        f"The audited model gives {wording.percent(band['ams'])} matches at {wording.condition_name(best)}, the control at most "
        f"{wording.percent(ceiling)} (95%)"
    )
    if band["ams_ci"][0] > ceiling:
        return f"{beside}: the matches come from the model, not from the classifier."
    return f"{beside}: too few samples to distinguish the two."
