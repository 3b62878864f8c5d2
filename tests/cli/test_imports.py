"""What is loaded before there is work to do: an import and a help text wait for no large library."""

import subprocess
import sys

import pytest

LARGE = ("torch", "ray", "pyarrow", "diffusers", "numba", "faiss", "matplotlib", "scipy", "sklearn")


def loaded(code: str) -> set[str]:
    """The large libraries that a fresh interpreter has loaded after running `code`."""
    report = f"import sys\n{code}\nprint(*[name for name in {LARGE} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import side_ray",
        "import side_ray.cli",
        "from typer.testing import CliRunner\n"
        "from side_ray.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0",
    ],
)
def test_nothing_large_is_loaded(code):
    assert loaded(code) == set()


def test_a_loaded_library_is_seen():
    assert "pyarrow" in loaded("import pyarrow")
