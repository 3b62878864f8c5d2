"""Links resolve, names exist, and the pages that are written from the code are up to date."""

import ast
import importlib
import re

import pytest
import yaml

from docs.reference import PAGES as WRITTEN
from docs.reference import config_page, keys
from side_ray import __version__
from side_ray.registry import REGISTRIES
from side_ray.similarity.descriptor import Description
from side_ray.studies.batch.plan import BatchFile
from tests.docs.pages import PAGES, README, ROOT, anchors, blocks, lines, links, prose_of, spans

EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@EVERY_PAGE
def test_links_resolve(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        if link.startswith("https://"):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_site_and_on_its_first_page():
    listed = re.findall(r'= "([\w-]+\.md)"', (ROOT / "docs" / "zensical.toml").read_text())
    pages = {page.name for page in PAGES if page != README}
    assert sorted(listed) == sorted(pages)
    assert pages - {"index.md"} <= set(links(ROOT / "docs" / "index.md"))
    assert "docs/index.md" in links(README)


def test_code_that_pages_link_to_is_in_the_site():
    """`make docs` copies it beside the pages."""
    outside = {link.split("/")[1] for page in PAGES if page != README for link in links(page) if link.startswith("../")}
    (copied,) = re.findall(r"^\tcp -r (.*) docs/site/$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert outside <= set(copied.split())


@EVERY_PAGE
def test_paths_in_the_text_exist(page):
    for path in spans(page):
        if re.fullmatch(r"(jobs|cluster|bench|tests|side_ray|docs)/[\w/.]*", path):
            assert (ROOT / path).exists() or path.startswith("docs/site"), path


def test_functions_of_the_method_exist():
    found = re.findall(r"\[`([\w.]+)`\]\(\.\./(side_ray/[\w/]+\.py)\)", prose_of(ROOT / "docs" / "method.md"))
    assert len(found) > 50
    for name, path in found:
        scope: ast.AST = ast.parse((ROOT / path).read_text())
        for part in name.split("."):
            inner = [each for each in ast.iter_child_nodes(scope) if part in _names(each)]
            assert inner, f"{path} has no {name}"
            scope = inner[0]


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [getattr(node, "name", "")]


def test_equations_of_the_code_are_in_the_method():
    """Every equation number of the paper that a docstring of the method's packages names stands in the method's tables."""
    numbers = set()
    for row in re.findall(r"^\| ([\d, –]+) \|", prose_of(ROOT / "docs" / "method.md"), re.MULTILINE):
        for part in row.split(", "):
            first, _, last = part.partition("–")
            numbers |= set(range(int(first), int(last or first) + 1))
    assert max(numbers) <= 156
    folders = ("stages", "statistics", "theory", "diffusion/guidance.py", "surrogate")
    files = [path for each in folders for path in (ROOT / "side_ray" / each).rglob("*.py")]
    files += [ROOT / "side_ray" / each for each in folders if each.endswith(".py")]
    named = set()
    for path in files:
        for line in path.read_text().splitlines():
            if not re.search(r"\d{4}", re.sub(r"arXiv \S+", "", line)):  # an equation of another paper
                named |= {int(each) for each in re.findall(r"Eq\. (\d+)", line)}
    assert {13, 14, 15, 58, 145, 151, 154} <= named
    assert named <= numbers


@pytest.mark.parametrize("name", WRITTEN)
def test_written_pages_are_what_the_code_says(name):
    assert (ROOT / "docs" / name).read_text() == WRITTEN[name](), "run: python -m docs.reference"


def test_every_key_of_the_config_has_a_meaning():
    rows = [line.split(" | ") for line in config_page().splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows if len(row[-1].strip(" |")) < 8] == []
    assert {"score.checkpoint", "data.labels_file", "extract.eta", "dpm.unet.dropout", "report.pairs"} <= set(keys())


@EVERY_PAGE
def test_keys_in_the_text_exist(page):
    known = set(keys())
    sections = {key.split(".")[0] for key in known}
    for span in [*spans(page), *(line for name, line in lines() if name == page.name)]:
        for section, name in re.findall(r"(?<![\w./-])([a-z]+)\.(\w+)(?=$|[=: ,/)])", span):
            file = name in ("csv", "json", "yaml", "md", "html", "pdf", "parquet", "svg", "py", "whl", "toml")
            if section in sections and not file and f"{section}.{name}" not in REGISTRIES:
                assert f"{section}.{name}" in known or page.name == "api.md", span


def test_yaml_blocks_hold_keys_of_the_config():
    known = set(keys())
    for block in blocks():
        if block.language == "yaml":
            found = yaml.safe_load(block.text)
            if "base" in found:
                assert BatchFile.model_validate(found).models
                continue
            if "weights" in found:
                assert Description.model_validate(found).size
                continue
            for section, values in found.items():
                assert {f"{section}.{name}" for name in values} <= known, block


@EVERY_PAGE
def test_modules_in_the_text_exist(page):
    for span in spans(page):
        if re.fullmatch(r"side_ray(\.\w+)+", span):
            module, _, name = span.rpartition(".")
            assert hasattr(importlib.import_module(module), name), span


def test_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "docs" / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (__version__, "Apache-2.0")
    assert citation["preferred-citation"]["title"] in prose_of(ROOT / "docs" / "citing.md").replace("\n", " ")
    assert f"side_ray-{__version__}-py3" in (ROOT / "docs" / "quickstart.md").read_text()
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()
