import re
from xml.etree import ElementTree

from side_ray.report.training import training_figures


def texts(figure):
    return [element.text for element in ElementTree.fromstring(figure.svg).iter("{http://www.w3.org/2000/svg}text")]


def test_noisy_loss_gets_a_running_mean(curves):
    long, short, accuracy = training_figures(curves)
    assert long.caption.startswith("Thin: as logged")
    assert short.caption == ""
    first = f"from {curves[0]['loss'][0]:.3g} at step 10 to {curves[0]['loss'][-1]:.3g} at step 4,000."
    assert long.alt == f"Training loss, DPM: {first}"
    assert accuracy.alt.endswith("SIDE student (sees t): 81.0% at t = 0, 1.50% at t = 999.")
    assert "chance" in texts(accuracy)


def test_stage_names_make_safe_file_names():
    curve = {"stage": "../../x<y>", "steps": [1, 2], "loss": [1.0, 0.5]}
    assert re.fullmatch(r"[A-Za-z0-9-]+", next(training_figures([curve])).name)


def test_loss_over_orders_of_magnitude_is_drawn_on_a_logarithmic_axis():
    wide = {"stage": "dpm", "steps": [1, 2, 3], "loss": [1.0, 0.1, 0.01]}
    narrow = {"stage": "dpm", "steps": [1, 2, 3], "loss": [1.0, 0.9, 0.8]}
    first, second = training_figures([wide, narrow])
    assert first.name != second.name
    assert {"0.01", "0.1", "1"} <= set(texts(first))
    assert not any("$" in text for text in texts(first))
    assert "0.01" not in texts(second)


def test_stages_without_curves_give_no_figure():
    assert list(training_figures([{"stage": "dpm", "steps": [], "loss": []}, {"stage": "teacher"}])) == []
