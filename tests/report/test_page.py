import copy
import itertools
import re

import pytest

from side_ray.report.figures import build_figures
from side_ray.report.page import render
from tests.report.conftest import judged

ATTACK = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


def test_page_is_well_formed_and_its_ids_are_unique(page):
    assert page.faults == []
    assert len(page.ids()) == len(set(page.ids()))


def test_page_needs_nothing_from_elsewhere(page, html):
    links = [
        value
        for _, attributes in page.tags
        for key, value in attributes.items()
        if key in ("src", "href", "xlink:href", "data")
    ]
    assert links
    assert all(value.startswith(("#", "data:")) for value in links)
    assert not re.search(r"url\((?!#)", html)
    assert "@import" not in html
    assert page.all("iframe", "object", "embed", "form") == []
    assert [each.get("type") for each in page.all("script")] == ["application/json", None]
    policy = next(each["content"] for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'$", policy)


def test_every_reference_inside_the_page_resolves(page, html):
    ids = set(page.ids())
    targets = [each["href"][1:] for each in page.all("a", "use") if (each.get("href") or "").startswith("#")]
    targets += [each["xlink:href"][1:] for each in page.all("use") if each.get("xlink:href")]
    targets += [value for _, each in page.tags for key, value in each.items() if key == "aria-labelledby"]
    targets += re.findall(r"url\(#([^)]+)\)", html)
    assert len(targets) > 50
    assert set(targets) <= ids


def test_headings_tell_the_structure(page):
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
    titles = page.text("h2")
    for words in (
        "Result",
        "Guidance scale",
        "Closest matches",
        "All conditions",
        "How to read",
        "Training",
        "Provenance",
    ):
        assert words in titles


def test_images_and_charts_have_words_and_tables_have_headers(page):
    assert len(page.all("img")) == 72
    assert all(image["alt"] for image in page.all("img"))
    charts = page.all("svg")
    assert charts
    assert all(chart.get("role") == "img" and len(chart["aria-label"] or "") > 20 for chart in charts)
    assert len(page.all("table")) == len(page.all("caption")) == 12
    assert all(each.get("scope") in ("col", "row") for each in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"


def _poisoned(value):
    if isinstance(value, dict):
        return {key: _poisoned(inner) for key, inner in value.items()} | {ATTACK: ATTACK}
    return value


@pytest.mark.long
def test_foreign_text_is_escaped_everywhere(metrics, config, curves, values, gallery, pairs, outline, without):
    metrics["conditions"] = without(metrics["conditions"], "bands")
    metrics["provenance"] = _poisoned(metrics["provenance"])
    metrics["similarity"]["weights"] = ATTACK
    for condition in metrics["conditions"]:
        condition["cumulative"][ATTACK] = condition["cumulative"].pop("low")
        condition["method"] = ATTACK if condition["method"] == "ti" else condition["method"]
    metrics["similarity"]["bands"]["cumulative"] = {ATTACK: [None, 1.5], "mid": [None, 1.4], "high": [None, 1.35]}
    for item in [*gallery, *values]:
        item["method"] = ATTACK if item["method"] == "ti" else item["method"]
    gallery = [
        {**item, "label": ATTACK, "train_id": f"{ATTACK}{item['train_id']}", "sample_id": ATTACK} for item in gallery
    ]
    config = _poisoned(config)
    config["report"]["title"] = ATTACK
    curves[0]["stage"] = curves[1]["stage"] = ATTACK
    pairs["rows"] = [[ATTACK, *row[1:5], ATTACK, "</script>" + ATTACK, *row[7:]] for row in pairs["rows"]]
    figures = build_figures(metrics, curves=curves, values=values)
    html = render(metrics, config, figures=figures, gallery=gallery, pairs=pairs)
    page = outline(html)
    assert page.faults == []
    assert len(page.all("script")) == 2
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    images = [image for image in page.all("img") if "src" in image]
    assert len(images) == 72
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    # As text it is there, in the title, a table, the gallery, a chart and the config.
    for tag in ("h1", "title", "caption", "span", "text", "code", "strong"):
        assert "<script>alert('x')</scr" in page.text(tag), tag


def test_without_labels_there_is_no_ol_ti_and_no_label(metrics, config, gallery, values, outline, without):
    metrics["conditions"] = [each for each in metrics["conditions"] if each["method"] != "ti"]
    opinions = metrics["second_opinions"]["nl2"]
    opinions["conditions"] = [each for each in opinions["conditions"] if each["method"] != "ti"]
    items = [{**item, "label": None} for item in gallery if item["method"] != "ti"]
    page = outline(
        render(
            metrics,
            config,
            figures=build_figures(without(metrics, "bands", "cumulative"), values=values),
            gallery=items,
        )
    )
    assert page.faults == []
    assert "OL-TI" not in page.text("td", "th", "h3", "text", "strong")
    assert "label" not in page.text("span")


@pytest.mark.long
def test_without_holdout_the_columns_are_absent_and_a_note_says_so(metrics, config, values, without, outline):
    bare = without(metrics, "holdout_ams", "holdout_count", "holdout_ci", "lift", "lift_ci", "holdout_size", "bands")
    for each in values:
        each["holdout_best"] = None
    page = outline(render(bare, config, figures=build_figures(bare, values=values)))
    assert "Held-out false matches" not in page.text("th")
    assert "Lift" not in page.text("th")
    assert "No held-out control" in page.text("strong")
    assert "held-out" not in page.text("text")


def test_one_condition_alone(metrics, config, outline):
    metrics["conditions"] = metrics["conditions"][:1]
    page = outline(render(metrics, config, figures=build_figures(metrics)))
    assert page.faults == []
    assert (
        "Counted alone, most are revealed by plain sampling (Random): 80 distinct images in 2,000 samples."
        in page.text("p")
    )
    assert "Guidance scale" not in page.text("h2")
    assert {each["href"][1:] for each in page.all("a")} <= set(page.ids())


@pytest.mark.parametrize("outcome", ["none_found", "cannot_say"])
@pytest.mark.long
def test_nothing_is_claimed_that_was_not_found(outcome, metrics, config, curves, values, gallery, outline):
    metrics = judged(metrics, outcome)
    figures = build_figures(metrics, curves=curves, values=values)
    page = outline(render(metrics, config, figures=figures, gallery=gallery))
    assert page.faults == []
    assert not re.findall(r"copies|extracted|over Random|within reach", page.text(), re.IGNORECASE)
    assert "Matches, " in page.text("dt")


@pytest.mark.long
def test_only_what_the_schema_promises(metrics, config, without, outline):
    bare = without(
        metrics,
        "holdout_ci",
        "lift",
        "mcnemar",
        "diffmemorize",
        "second_opinions",
        "richness",
        "cut_n",
        "false_match_rate",
        "provenance",
    )
    page = outline(render(bare, {}, figures=build_figures(bare)))
    assert page.faults == []
    assert "Chao2" not in page.text("th", "dt", "p")
    assert "McNemar" not in page.text("th", "dt")
    assert page.all("pre") == []


def test_empty_gallery_and_no_conditions_are_said(metrics, config, outline):
    assert "no images to show" in outline(render(metrics, config)).text("p")
    metrics["conditions"] = []
    page = outline(render(metrics, config, figures=build_figures(metrics)))
    assert page.faults == []
    assert "nothing to report yet" in page.text("p")


@pytest.mark.long
def test_rendering_leaves_its_input_alone_and_is_deterministic(metrics, config, curves, values, gallery, pairs, html):
    before = copy.deepcopy((metrics, config, curves, gallery, pairs))
    figures = build_figures(metrics, curves=curves, values=values)
    again = render(metrics, config, figures=figures, gallery=gallery, pairs=pairs)
    assert (metrics, config, curves, gallery, pairs) == before
    assert again == html


def test_a_model_on_the_hub_is_named_with_its_commit(metrics, config):
    metrics["provenance"]["model"] = {"path": "hf://owner/name@<b>main", "commit": "0123abc"}
    assert "hf://owner/name@&lt;b&gt;main, commit 0123abc" in render(metrics, config)
