import html as escapes
import re

import yaml

from side_ray.report.page import render


def test_credentials_inside_a_url_stay_out(metrics, config, outline):
    config["storage"]["endpoint"] = "https://key:secret@s3.example.org"
    metrics["provenance"]["endpoint"] = "https://key:secret@s3.example.org"
    text = outline(render(metrics, config)).text()
    assert text.count("https://***@s3.example.org") == 2
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
