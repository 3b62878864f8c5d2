"""The README stays short and names targets that exist. Its links and commands are tested with the other pages, in tests/docs."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_the_readme_is_short_and_has_what_a_first_look_needs():
    assert len(TEXT.splitlines()) < 80
    for needed in (
        "make audit",
        "minutes",
        "GB",
        "What can be audited",
        "docs/report.png",
        "Apache License",
        "arxiv.org/abs/2410.02467",
    ):
        assert needed in TEXT


@pytest.mark.parametrize("target", ["audit", "test", "test-unit", "test-all", "lint", "docs", "bench", "lock"])
def test_make_knows_its_targets(target):
    result = subprocess.run(["make", "--dry-run", target], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr


def test_targets_in_the_documentation_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        assert set(re.findall(r"`make ([\w-]+)`", page.read_text())) <= targets, page
