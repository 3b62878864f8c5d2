"""The page in a real browser: it loads whole, without messages or requests, fits a desktop and a telephone, prints its first part
on one sheet, and its pairs can be filtered, sorted and looked at by keyboard."""

import base64
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from unittest.mock import patch

import numpy as np
import pypdf
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from side_ray.images import decode_png
from side_ray.report.page import render
from side_ray.results.pairs import thumbnails
from side_ray.results.pdf import chromium, print_pdf

WIDTHS = (1440, 390)
# What does not fit, and what is not shown, at the current width.
MEASURE = """() => {
  const root = document.documentElement, box = element => element.getBoundingClientRect();
  const shown = element => element.closest("details:not([open]) > :not(summary), dialog, [hidden]") === null;
  return {
    overflow: root.scrollWidth - innerWidth,
    broken: [...document.images].filter(image => shown(image) && image.src && image.complete)
      .filter(image => !(image.naturalWidth && box(image).width)).length,
    smooth: [...document.images].filter(image => shown(image) && getComputedStyle(image).imageRendering !== "pixelated").length,
    charts: [...document.querySelectorAll("svg")].filter(shown).map(each => box(each).width > 0 && box(each).height > 0),
    cut: [...document.querySelectorAll("h1, h2, h3, p, li, dd, figcaption, .chart")]
      .filter(element => shown(element) && !element.closest(".scroll, pre") && box(element).right > innerWidth + 1)
      .map(element => element.tagName + " " + element.textContent.slice(0, 40)),
  };
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium()
    if path is None:
        pytest.fail("no Chromium on this machine, which the browser test needs: apt-get install chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield found
        found.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Open a page and return it, with what it logged and requested in `page.seen`."""
    opened = []

    def open_page(html: str, width: int = WIDTHS[0], **options) -> Page:
        file = tmp_path / f"{len(opened)}.html"
        file.write_text(html, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        page = context.new_page()
        page.seen = []
        page.on("console", lambda message: page.seen.append(message.text))
        page.on("pageerror", lambda error: page.seen.append(str(error)))
        page.on("request", lambda request: page.seen.append(request.url))
        page.goto(file.as_uri())
        page.seen = [line for line in page.seen if line != file.as_uri() and not line.startswith("data:")]
        opened.append(context)
        return page

    yield open_page
    for context in opened:
        context.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_page_loads_whole_and_fits(visit, html, width):
    page = visit(html, width)
    assert page.seen == []
    found = page.evaluate(MEASURE)
    assert found["overflow"] <= 0, found
    assert found["cut"] == []
    assert (found["broken"], found["smooth"]) == (0, 0)
    assert len(found["charts"]) > 5
    assert all(found["charts"])
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    found = page.evaluate(MEASURE)
    assert found["overflow"] <= 0
    assert found["cut"] == []
    assert len(found["charts"]) == html.count("<svg")
    assert all(found["charts"])


def test_measure_sees_what_it_is_meant_to_see(visit, html):
    broken = (
        '<p style="width:3000px;max-width:none">wide</p><img src="data:image/png;base64,AAAA" alt="broken">'
        '<img src="https://127.0.0.1:9/x.png" alt="remote"><script>1</script>'
    )
    page = visit(html.replace("</main>", broken + "</main>"))
    found = page.evaluate(MEASURE)
    assert found["overflow"] > 0
    assert any("wide" in text for text in found["cut"])
    assert found["broken"] >= 1
    assert sum("Content Security Policy" in line for line in page.seen) == 2


def test_very_long_names_do_not_widen_the_page(visit, metrics, config, gallery, pairs):
    config["report"]["title"] = "A" * 300
    metrics["provenance"]["run"]["uri"] = "s3://" + "b" * 300
    gallery = [{**item, "label": "c" * 60, "sample_id": 10**15} for item in gallery]
    for width in WIDTHS:
        page = visit(render(metrics, config, gallery=gallery, pairs=pairs), width)
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        found = page.evaluate(MEASURE)
        assert found["overflow"] <= 0
        assert found["cut"] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_barrier_is_found(visit, html, scheme):
    page = visit(html, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_pairs_are_filtered_and_sorted(visit, html, pairs):
    page, rows = visit(html), pairs["rows"]
    count = page.locator("#pairs-count")
    assert count.inner_text() == f"{len(rows)} pairs of {len({row[3] for row in rows})} training images"
    page.select_option("#pairs-method", label="SIDE")
    wanted = [row for row in rows if row[0] == "td"]
    assert count.inner_text().startswith(f"{len(wanted)} pairs")
    page.select_option("#pairs-class", "3")
    wanted = [row for row in wanted if row[5] == 3]
    assert count.inner_text().startswith(f"{len(wanted)} pairs")
    page.select_option("#pairs-class", "")
    page.select_option("#pairs-method", "")
    page.select_option("#pairs-cut", "out")
    assert count.inner_text().startswith(f"{len(rows) - pairs['shown']} pairs")
    page.select_option("#pairs-cut", "")
    page.check("#pairs-once")
    assert count.inner_text().startswith(f"{len({row[3] for row in rows})} pairs")
    page.select_option("#pairs-sort", "train")
    first = page.locator("#pairs-grid button").first.inner_text()
    assert first.endswith(f"train {min(row[3] for row in rows)}")


def test_a_pair_is_looked_at_by_keyboard(visit, html, pairs):
    page = visit(html)
    page.locator("#pairs-grid button").first.focus()
    page.keyboard.press("Enter")
    zoom = page.locator("#pairs-zoom")
    assert zoom.is_visible()
    assert page.locator("#pairs-zoom-title").inner_text() == f"Pair 1 of {len(pairs['rows'])}"
    page.keyboard.press("ArrowRight")
    second = sorted(pairs["rows"], key=lambda row: row[4])[1]
    text = zoom.inner_text()
    assert "Pair 2 of" in text
    assert f"{second[4]:.3f}, within the cut" in text
    assert f"{second[9]:.3f}" in text
    assert Axe().run(page).violations_count == 0
    page.keyboard.press("Escape")
    assert not zoom.is_visible()
    assert page.seen == []


def test_of_five_thousand_pairs_only_a_sheet_is_drawn(visit, metrics, config, many_pairs):
    html = render(metrics, config, pairs=many_pairs)
    assert len(html) < 15 * 2**20
    page = visit(html)
    assert page.locator("#pairs-count").inner_text().startswith("5000 pairs")
    assert page.locator("#pairs-grid li").count() == 24
    page.click("#pairs-next")
    assert page.locator("#pairs-place").inner_text() == "25–48 of 5000"


def test_everything_but_the_pairs_is_there_without_scripts(visit, html, browser):
    page = visit(html, java_script_enabled=False)
    assert "Revealed" in page.locator("#result").inner_text()
    assert "open the page where scripts may run" in page.locator("#explorer").inner_text()
    assert page.locator("#gallery img").count() == 72


def test_first_sheet_is_the_certificate(metrics, config, html, gallery, whole_figures):
    config["report"]["title"] = 'Digits "a" \\ </style> 300'
    metrics["provenance"] |= {"at": "2026-11-28T01:00:00+00:00", "seconds": {"score": 61.0}, "pixels": "ef" * 32}
    metrics["provenance"]["machine"] = {"nodes": 3, "cpus": 48, "gpus": 2, "cpu": "Some processor"}
    made = pypdf.PdfReader(io.BytesIO(print_pdf(render(metrics, config, figures=whole_figures, gallery=gallery))))
    first, second = (made.pages[number].extract_text() for number in (0, 1))
    for words in (
        "Found: 223 of 300",
        "ef" * 16,
        "Signature",
        "What it does not show",
        "1 min 01 s",
        "3 nodes",
        "1 of",
    ):
        assert words in first, words
    assert "Signature" not in second
    assert f"2 of {len(made.pages)}" in second
    assert '"a" \\ </style> 300' in second


def test_page_can_be_photographed(visit, html):
    with Image.open(io.BytesIO(visit(html).screenshot())) as shot:
        assert len(shot.convert("RGB").getcolors(maxcolors=2**24)) > 100


@pytest.fixture
def beside(many_pairs, tmp_path):
    """The 5,000 pairs, the first 200 in the page and the others in sheets, which are written to a folder."""
    images = [decoded(uri) for uri in many_pairs["samples"][:20]]

    def write(name: str, data: bytes) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)

    with patch.object(thumbnails, "MOST_BYTES", 200 * len(many_pairs["samples"][0])):
        made = thumbnails.Thumbnails(write, 8)
        samples = [made.add(images[place % 20]) for place in range(5000)]
    return many_pairs | {"samples": samples, "sheets": made.finish()}


@contextmanager
def served(directory: Path) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def decoded(uri: str) -> np.ndarray:
    return decode_png(base64.b64decode(uri.partition(",")[2]))


PIXELS = """canvas => {
  const copy = document.createElement("canvas"), context = copy.getContext("2d");
  [copy.width, copy.height] = [canvas.width, canvas.height];
  context.drawImage(canvas, 0, 0);
  return [...context.getImageData(0, 0, 8, 8).data].filter((_, place) => place % 4 === 0);
}"""


def test_pairs_beside_the_page_are_cut_out_of_sheets(browser, metrics, config, many_pairs, beside, tmp_path):
    """Served, so that the test may read the pixels that the browser has drawn."""
    images = [decoded(uri) for uri in many_pairs["samples"][:20]]
    (tmp_path / "index.html").write_text(render(metrics, config, pairs=beside), encoding="utf-8")
    with served(tmp_path) as address:
        page = browser.new_page()
        page.goto(f"{address}/index.html")
        for _ in range(30):
            page.click("#pairs-next")
        assert page.locator("#pairs-place").inner_text() == "721–744 of 5000"
        page.wait_for_load_state("networkidle")
        cut = page.locator("#pairs-grid canvas").all()
        assert len(cut) == 24
        for place, canvas in enumerate(cut, 720):
            assert canvas.evaluate(PIXELS) == images[place % 20].flatten().tolist()
        page.close()


@pytest.mark.parametrize("copy", [False, True], ids=["report", "copy at the top"])
def test_sheets_are_found_without_a_server(visit, metrics, config, beside, tmp_path, copy):
    html = render(metrics, config, pairs=beside)
    if copy:
        (tmp_path / "report").mkdir()
        (tmp_path / "pairs").rename(tmp_path / "report" / "pairs")
        html = thumbnails.moved(html, "report")
    page = visit(html)
    assert page.seen == []
    page.select_option("#pairs-sort", "train")
    page.click("#pairs-next")
    page.locator("#pairs-grid button").last.click()
    page.wait_for_function("document.querySelector('#zoom-sample').firstChild.ready")
    page.wait_for_timeout(200)
    assert page.locator("#zoom-sample canvas").count() == 1
    assert page.locator(".empty", has_text="is not beside the page").count() == 0
    assert [line for line in page.seen if not line.startswith("file:")] == []
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    (folder,) = tmp_path.rglob("pairs")
    folder.rename(tmp_path / "elsewhere")
    page.reload()
    page.select_option("#pairs-sort", "train")
    page.click("#pairs-next")
    missing = page.locator("#pairs-grid .empty").first
    missing.wait_for()
    assert missing.inner_text().endswith(".png is not beside the page")
