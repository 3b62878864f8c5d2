"""The page in a real browser: it loads completely, without messages or requests, and fits a desktop and a telephone."""

import html as escapes
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from side_ray.report.page import render

WIDTHS = (1280, 400)
QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--hide-scrollbars",
    "--virtual-time-budget=10000",
]  # fmt: skip
# The page forbids scripts, so it is measured from outside, in frames of its own origin.
HARNESS = """<!DOCTYPE html><meta charset="utf-8"><body>%s<script>
addEventListener("load", () => {
  const findings = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, view = frame.contentWindow, root = page.documentElement;
    const visible = element => { const box = element.getBoundingClientRect(); return box.width > 0 && box.height > 0; };
    return {
      width: view.innerWidth, overflow: root.scrollWidth - view.innerWidth,
      images: [...page.images].map(image => [image.naturalWidth, image.naturalHeight, visible(image)]),
      pixelated: [...page.images].every(image => view.getComputedStyle(image).imageRendering === "pixelated"),
      charts: [...page.querySelectorAll("svg")].map(visible),
      requests: view.performance.getEntriesByType("resource").map(entry => entry.name)
        .filter(name => !name.startsWith("data:")),
      cut: [...page.querySelectorAll("h1, h2, h3, p, li, dd, figcaption, .chart")]
        .filter(element => !element.closest(".scroll, pre"))
        .filter(element => element.getBoundingClientRect().right > view.innerWidth + 1)
        .map(element => element.tagName + " " + element.textContent.slice(0, 40)),
      heading: page.querySelector("h1").textContent,
    };
  });
  const result = document.createElement("pre");
  result.id = "findings";
  result.textContent = JSON.stringify(findings);
  document.body.append(result);
});
</script>"""


@pytest.fixture(scope="module")
def chromium() -> str:
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if found is None:
        pytest.fail("no Chromium on this machine, which the browser test needs: apt-get install chromium")
    return found


def browse(chromium: str, profile: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [chromium, *QUIET, f"--user-data-dir={profile}", *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done


def console_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def measure(chromium: str, folder: Path, page: str) -> tuple[list[dict], list[str]]:
    frames = "".join(
        f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{escapes.escape(page)}"></iframe>'
        for width in WIDTHS
    )
    (folder / "harness.html").write_text(HARNESS % frames, encoding="utf-8")
    done = browse(chromium, folder / "profile", "--dump-dom", (folder / "harness.html").as_uri())
    dumped = re.search(r'<pre id="findings">(.*?)</pre>', done.stdout, re.S)
    assert dumped, f"the harness did not finish: {done.stderr[-2000:]}"
    return json.loads(escapes.unescape(dumped[1])), console_lines(done)


def test_page_loads_whole_and_fits_both_widths(chromium, tmp_path, html):
    seen, console = measure(chromium, tmp_path, html)
    assert console == []
    assert [each["width"] for each in seen] == list(WIDTHS)
    for each in seen:
        assert each["overflow"] <= 0, each
        assert each["cut"] == [], each
        assert len(each["images"]) == 72
        assert all(width == height == 8 and shown for width, height, shown in each["images"])
        assert each["pixelated"]
        assert len(each["charts"]) == 28
        assert all(each["charts"])
        assert each["requests"] == []
        assert each["heading"] == "Digits, 300 members"


def test_harness_sees_what_it_is_meant_to_see(chromium, tmp_path, html):
    broken = (
        '<p style="width:3000px;max-width:none">wide</p><img src="data:image/png;base64,AAAA" alt="broken">'
        '<img src="https://127.0.0.1:9/x.png" alt="remote">'
    )
    seen, console = measure(chromium, tmp_path, html.replace("</main>", broken + "</main>"))
    assert all(each["overflow"] > 0 and any("wide" in text for text in each["cut"]) for each in seen)
    assert [0, 0] in [image[:2] for image in seen[0]["images"]]
    assert any("Content Security Policy" in line for line in console)


def test_very_long_names_do_not_widen_the_page(chromium, tmp_path, metrics, config, gallery):
    config["report"]["title"] = "A" * 300
    metrics["provenance"]["run"]["uri"] = "s3://" + "b" * 300
    gallery = [{**item, "label": "c" * 60, "sample_id": 10**15} for item in gallery]
    seen, _ = measure(chromium, tmp_path, render(metrics, config, gallery=gallery))
    assert all(each["overflow"] <= 0 and each["cut"] == [] for each in seen), [each["cut"] for each in seen]


def test_page_opens_by_itself_and_can_be_photographed(chromium, tmp_path, html):
    (tmp_path / "index.html").write_text(html, encoding="utf-8")
    picture = tmp_path / "page.png"
    address = (tmp_path / "index.html").as_uri()
    done = browse(chromium, tmp_path / "profile", "--window-size=1280,1600", f"--screenshot={picture}", address)
    assert console_lines(done) == []
    with Image.open(picture) as shot:
        assert shot.size == (1280, 1600)
        assert len(shot.convert("RGB").getcolors(maxcolors=2**24)) > 100
