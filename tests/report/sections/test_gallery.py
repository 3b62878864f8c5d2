import pytest

from side_ray.report.page import render


def test_gallery_shows_distinct_closest_matches_per_method(metrics, config, gallery, outline):
    again = [{**item, "value": item["value"] + 0.5, "sample_id": 9999} for item in gallery]
    html = render(metrics, {**config, "report": {"gallery": 5}}, gallery=again + gallery[::-1])
    page = outline(html)
    assert len(page.all("img")) == 2 * 5 * 3
    assert "sample 9999" not in page.text()
    alts = [image["alt"] for image in page.all("img")]
    assert alts[:2] == ["Training image 0, label 0", "Generated image, sample 100 of SIDE at λ=5"]
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
