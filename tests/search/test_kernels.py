"""The engine works without its faster kernels, and finds the same to the last bit."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from side_ray.search.kernels import KERNELS

ROOT = Path(__file__).parents[2]
COMPARISON = Path(__file__).with_name("comparison.py")


@pytest.fixture(scope="module")
def full() -> dict[str, np.ndarray]:
    results = runpy.run_path(str(COMPARISON))["results"]
    found = results(None)
    for kernel in KERNELS:
        for name, array in results(kernel).items():
            np.testing.assert_array_equal(array, found[name], err_msg=f"{kernel}: {name}")
    return found


def assert_same(full: dict[str, np.ndarray], tmp_path: Path, package: Path, prelude: str) -> None:
    """Run the comparison in a process of its own, on a copy of the package, after some statements."""
    saved = tmp_path / "found.npz"
    code = f"""
{prelude}
import runpy, sys
sys.argv[1:] = [{str(saved)!r}]
runpy.run_path({str(COMPARISON)!r}, run_name="__main__")
assert "side_ray.search.cpu_int8.tiles" not in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": str(package)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    with np.load(saved) as found:
        assert set(found) == set(full)
        for name, array in full.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.long
def test_deleting_the_kernels_and_their_lines_changes_no_result(full: dict[str, np.ndarray], tmp_path: Path) -> None:
    shutil.copytree(ROOT / "side_ray", tmp_path / "copy" / "side_ray", ignore=shutil.ignore_patterns("__pycache__"))
    search = tmp_path / "copy" / "side_ray" / "search"
    for kernel in KERNELS:
        shutil.rmtree(search / kernel)
        text = (search / "kernels.py").read_text()
        (search / "kernels.py").write_text(re.sub(rf'\n    "{kernel}": .*', "", text))
    names = "|".join(rf"search\.{kernel}" for kernel in KERNELS)
    mentions = [path.name for path in search.rglob("*.py") if re.search(rf"(import|:).*({names})", path.read_text())]
    assert not mentions
    assert_same(full, tmp_path, tmp_path / "copy", f"import side_ray; assert {str(tmp_path)!r} in side_ray.__file__")


@pytest.mark.long
def test_without_numba_results_are_the_same(full: dict[str, np.ndarray], tmp_path: Path) -> None:
    assert_same(full, tmp_path, ROOT, "import sys; sys.modules['numba'] = None")


def test_importing_the_door_is_light() -> None:
    code = (
        "import sys, side_ray.search; side_ray.search.Levels; "
        "sys.exit(bool({'torch', 'numba', 'faiss'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
