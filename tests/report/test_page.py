import copy
import html as escapes
import itertools
import re

import pytest
import yaml

from side_ray.report.figures import build_figures
from side_ray.report.page import render

ATTACK = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


@pytest.fixture
def html(whole_page):
    return whole_page


@pytest.fixture
def page(html, outline):
    return outline(html)


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
    assert page.all("script", "iframe", "object", "embed", "form") == []
    policy = next(each["content"] for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


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
        "Extracted images",
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
    assert len(page.all("table")) == len(page.all("caption")) == 11
    assert all(each.get("scope") in ("col", "row") for each in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"


def test_headline_and_key_numbers_carry_counts_and_intervals(page):
    text = page.text()
    assert "SIDE at λ=10 reproduces 16.2% of its samples as copies of 134 distinct training images out of 300" in text
    assert "plain sampling (Random) reproduces 5.20%, 80 distinct." in text
    for words in (
        "324 of 2,000 samples",
        "95%: 14.6–17.9%",
        "3.1×",
        "McNemar p < 0.0001",
        "0 of 2,000 samples",
        "95%: 0–0.18%",
    ):
        assert words in text
    assert "nL2 ≤ 0.602" in text
    assert "1 in 1,000" in text


def test_ratio_that_rests_on_few_matches_says_so(metrics, config, outline, page):
    assert "rests on fewer than 5" not in page.text("span")
    metrics["conditions"][0]["calibrated"] |= {"ams": 0.0015, "ams_count": 3}
    assert "rests on fewer than 5 matches" in outline(render(metrics, config)).text("span")


def test_table_of_the_calibrated_cut_shows_every_condition(html, outline, metrics):
    table = next(part for part in html.split("<table")[1:] if "Calibrated cut" in part.split("</caption>")[0])
    rows = [
        outline(f"<table{row}").text("th", "td", "b", "span", "abbr")
        for row in table.split("</table>")[0].split("<tr")[2:]
    ]
    assert len(rows) == len(metrics["conditions"])
    assert "Random 0 2,000 5.20% 104 4.27–6.27% 4.80% 96" in rows[0]
    assert rows[0].endswith("26.0× 11.6–78.0")
    assert "14.7% 294" in rows[3]
    assert "0.15% 3 0.03–0.44%" in rows[3]
    assert ["†" in row for row in rows] == [False] * 6 + [True]


def test_gallery_shows_distinct_closest_matches_per_method(metrics, config, gallery, outline):
    again = [{**item, "value": item["value"] + 0.5, "sample_id": 9999} for item in gallery]
    html = render(metrics, {**config, "report": {"gallery": 5}}, gallery=again + gallery[::-1])
    page = outline(html)
    assert len(page.all("img")) == 2 * 5 * 3
    assert "sample 9999" not in page.text()
    alts = [image["alt"] for image in page.all("img")]
    assert alts[:2] == ["Training image 0, label 0", "Extracted image, sample 100 of SIDE at λ=5"]
    assert [image["class"] for image in page.all("img")] == ["tiny"] * 30
    assert "image-rendering: pixelated" in html


def test_gallery_marks_what_lies_beyond_the_cut_whichever_way_is_closer(metrics, config, gallery, outline):
    strip = render(metrics, config, gallery=gallery[:14])
    assert strip.count("beyond the cut</span>") == 1
    cosine = {**metrics, "cut": 0.5, "similarity": {**metrics["similarity"], "name": "sscd"}}
    page = outline(render(cosine, config, gallery=gallery[:14]))
    assert page.all("img")[0]["alt"] == "Training image 13, label 3"
    assert page.text("span").count("beyond the cut") == 6


def test_image_that_is_no_png_is_refused(metrics, config, gallery):
    with pytest.raises(ValueError, match="not a PNG"):
        render(metrics, config, gallery=[{**gallery[0], "sample_png": b"\xff\xd8\xff\xe0 a JPEG of twenty-four bytes"}])


def _poisoned(value):
    if isinstance(value, dict):
        return {key: _poisoned(inner) for key, inner in value.items()} | {ATTACK: ATTACK}
    return value


def test_foreign_text_is_escaped_everywhere(metrics, config, curves, values, gallery, outline, without):
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
    html = render(metrics, config, figures=build_figures(metrics, curves=curves, values=values), gallery=gallery)
    page = outline(html)
    assert page.faults == []
    assert page.all("script") == []
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert len(page.all("img")) == 72
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    # As text it is there, in the title, a table, the gallery, a chart and the config.
    for tag in ("h1", "title", "caption", "span", "text", "code", "strong"):
        assert "<script>alert('x')</scr" in page.text(tag), tag


def test_credentials_inside_a_url_stay_out(metrics, config, outline):
    config["storage"]["endpoint"] = "https://key:secret@s3.example.org"
    metrics["provenance"]["endpoint"] = "https://key:secret@s3.example.org"
    text = outline(render(metrics, config)).text()
    assert text.count("https://s3.example.org") == 2
    assert "secret" not in text


def test_config_is_shown_as_yaml_that_reads_back(metrics, config, html, outline):
    shown = escapes.unescape(re.search(r"<pre[^>]*><code>(.*?)</code></pre>", html, re.S)[1])
    assert yaml.safe_load(shown) == config


def test_provenance_lists_every_leaf(page):
    text = page.text("th", "td")
    for words in (
        "checkpoints.dpm sha256:" + "ab12" * 16,
        "run.seed 7",
        "versions.faiss 1.15.1",
        "held-out images 300",
        "similarity.alpha 0.5",
        "calibrated cut nL2 ≤ 0.602, set by 6,000 samples; true false-match rate 0.04–0.19% (95%)",
    ):
        assert words in text


def test_config_among_the_provenance_is_shown_once(metrics, config, outline):
    metrics["provenance"]["config"] = config
    assert "config.run.uri" not in outline(render(metrics, config)).text("th")


def test_lift_without_a_held_out_match_gives_its_lower_bound(page):
    assert "over 64.8" in page.text("span")


def test_without_labels_there_is_no_ol_ti_and_no_label(metrics, config, gallery, values, outline, without):
    metrics["conditions"] = [each for each in metrics["conditions"] if each["method"] != "ti"]
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


def test_without_holdout_the_columns_are_absent_and_a_note_says_so(metrics, config, values, without, outline):
    bare = without(metrics, "holdout_ams", "holdout_count", "holdout_ci", "lift", "lift_ci", "holdout_size")
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
        "Plain sampling (Random) reproduces 5.20% of its samples as copies of 80 distinct training images out of 300."
        in page.text("p")
    )
    assert "Guidance scale" not in page.text("h2")
    assert {each["href"][1:] for each in page.all("a")} <= set(page.ids())


def test_only_what_the_schema_promises(metrics, config, without, outline):
    bare = without(
        metrics,
        "holdout_ci",
        "lift",
        "mcnemar",
        "diffmemorize",
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


def test_rendering_leaves_its_input_alone_and_is_deterministic(metrics, config, curves, values, gallery, html):
    before = copy.deepcopy((metrics, config, curves, gallery))
    again = render(metrics, config, figures=build_figures(metrics, curves=curves, values=values), gallery=gallery)
    assert (metrics, config, curves, gallery) == before
    assert again == html
