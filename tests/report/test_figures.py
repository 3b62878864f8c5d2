import csv
import io
import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from side_ray.report import svg
from side_ray.report.figures import build_figures

SVG = "{http://www.w3.org/2000/svg}"


def texts(figure):
    return [element.text for element in ElementTree.fromstring(figure.svg).iter(f"{SVG}text")]


@pytest.fixture
def small(metrics, without):
    """Only the calibrated cut, so only three λ figures."""
    return {**metrics, "conditions": without(metrics["conditions"], "bands", "cumulative")}


@pytest.fixture
def draw_only(monkeypatch):
    """Only figures whose names begin so are drawn, which takes longest; the others are empty."""
    draw = svg.to_svg

    def choose(*names):
        monkeypatch.setattr(
            svg, "to_svg", lambda axes, name, *given: draw(axes, name, *given) if name.startswith(names) else ""
        )

    return choose


def test_what_is_made_from_everything(whole_figures):
    names = [figure.name for figure in whole_figures]
    assert len(names) == len(set(names)) == 3 * 7 + 3 + 1 + 2 + 1 + 2
    assert {figure.group for figure in whole_figures} == {
        "lambda-calibrated",
        "lambda-cumulative",
        "lambda-bands",
        "best",
        "found",
        "richness",
        "training",
    }


def test_figures_stand_alone_with_units_and_words(whole_figures):
    for figure in whole_figures:
        root = ElementTree.fromstring(figure.svg)
        assert root.tag == f"{SVG}svg"
        assert root.get("role") == "img"
        assert root.get("aria-label") == figure.alt
        assert all(element.get("id", figure.name).startswith(figure.name) for element in root.iter())
        assert root.find(f"{SVG}metadata") is None
        assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", figure.svg)
        assert len([text for text in texts(figure) if re.search(r"%|λ|nL2|step|samples|images|loss", text)]) >= 2


def test_page_version_takes_every_colour_from_the_page(whole_figures):
    for figure in whole_figures:
        inline = svg.themed(figure.svg)
        assert not re.search(r"(?<!, )#[0-9a-f]{6}\b", inline), figure.name
        assert "var(--ink, #1f2328)" in inline
        assert not re.search(r"<svg[^>]*\s(width|height)=", inline)


def test_lambda_curve_says_its_points_and_draws_each_method(whole_figures):
    figure = next(each for each in whole_figures if each.name == "lambda-calibrated-ams")
    assert (
        "Random 5.20%. SIDE λ 0.5: 2.90%, λ 2: 10.2%, λ 5: 14.7%, λ 10: 16.2%. OL-TI λ 1: 2.50%, λ 5: 0.20%."
        in figure.alt
    )
    assert {"SIDE", "OL-TI", "Random (λ = 0)", "held-out images"} <= set(texts(figure))
    for method in ("td", "ti"):
        assert svg.METHOD_COLOURS[method] in figure.svg


def test_lambda_curve_is_drawn_at_its_values(whole_figures):
    figure = next(each for each in whole_figures if each.name == "lambda-calibrated-ums_best")
    line = next(
        element.get("d")
        for element in ElementTree.fromstring(figure.svg).iter(f"{SVG}path")
        if f"stroke: {svg.METHOD_COLOURS['td']}" in (element.get("style") or "")
        and element.get("d", "").count("L") == 4
    )
    heights = np.array([float(pair.split()[1]) for pair in re.findall(r"[-\d.]+ [-\d.]+", line)])
    shares = np.array([80, 44, 118, 142, 134])
    slope, offset = np.polyfit(shares, heights, 1)
    assert slope < 0
    assert np.allclose(heights, slope * shares + offset, atol=0.05)


def test_distinct_images_of_another_sample_size_are_left_out(small, draw_only):
    draw_only()
    small["conditions"][3]["n"] = 4000
    made = {figure.name: figure for figure in build_figures(small)}
    assert "λ 5:" in made["lambda-calibrated-ams"].alt
    assert "λ 5: 8" not in made["lambda-calibrated-ums"].alt
    assert made["lambda-calibrated-ums"].caption == "Conditions of another N_G left out: 1."


def test_one_guided_condition_without_a_baseline_is_still_drawn(small, draw_only):
    draw_only("lambda-calibrated")
    small["conditions"] = small["conditions"][3:4]
    made = [figure for figure in build_figures(small) if figure.group == "lambda-calibrated"]
    assert len(made) == 3
    assert "Random (λ = 0)" not in texts(made[0])


def test_plain_sampling_alone_has_no_lambda_curve(small, draw_only):
    draw_only()
    small["conditions"] = small["conditions"][:1]
    assert not any(figure.group.startswith("lambda") for figure in build_figures(small))


def test_distribution_takes_the_best_condition_of_each_method(whole_figures, values):
    made = [figure for figure in whole_figures if figure.name.startswith("best-")]
    assert [figure.title for figure in made] == ["SIDE at λ=10", "OL-TI at λ=1", "Random"]
    assert all({"to training images", "to held-out images", "cut 0.602"} <= set(texts(figure)) for figure in made)
    assert f"median {np.median(values[4]['best']):.3f} against the training set" in made[0].alt


def test_distribution_without_holdout_or_with_gaps(small, values, draw_only):
    draw_only("best-")
    for each in values:
        each["holdout_best"] = None
    values[0]["best"] = np.where(np.arange(2000) < 10, np.nan, 0.5)
    made = [figure for figure in build_figures(small, values=values) if figure.name.startswith("best-")]
    assert len(made) == 3
    assert "to held-out images" not in texts(made[0])
    assert "median 0.500" in made[2].alt


def test_dollar_signs_and_long_names_do_no_harm(small, draw_only):
    draw_only("lambda-calibrated-ams")
    for condition in small["conditions"]:
        if condition["method"] == "ti":
            condition["method"] = "a $x_{ method of ours with a very long name"
    figure = build_figures(small)[0]
    assert "a $x_{ method of ours w…" in texts(figure)
    assert svg.OTHER_COLOURS[0] in figure.svg


def test_matplotlib_settings_are_left_as_they_were(small, draw_only):
    draw_only("lambda-calibrated-ams")
    before = dict(matplotlib.rcParams)
    build_figures(small)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.long
def test_figures_are_kept_for_papers_with_their_data(small, values):
    small["conditions"] = [small["conditions"][place] for place in (0, 3, 4)]
    with svg.keeping() as kept:
        made = build_figures(small, values=values)
    assert set(kept) == {f"{each.name}.{kind}" for each in made for kind in ("png", "pdf", "csv")}
    assert kept["rarefaction.png"].startswith(b"\x89PNG")
    assert kept["rarefaction.pdf"].startswith(b"%PDF")
    rows = list(csv.DictReader(io.StringIO(kept["lambda-calibrated-ams.csv"].decode())))
    side = [(float(row["x"]), float(row["y"])) for row in rows if row["series"] == "SIDE"]
    wanted = [(each["lambda"], 100 * each["calibrated"]["ams"]) for each in small["conditions"][1:]]
    assert np.allclose(side[1:], wanted)
    assert len([row for row in rows if row["series"] == "SIDE, :"]) == len(side)
    histogram = list(csv.DictReader(io.StringIO(kept["best-td-10.csv"].decode())))
    assert sum(float(row["y"]) for row in histogram if row["series"] == "to training images") == pytest.approx(100)
    build_figures(small)
    assert set(kept) == {f"{each.name}.{kind}" for each in made for kind in ("png", "pdf", "csv")}
