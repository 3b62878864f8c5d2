"""What is loaded before there is work to do: an import and a help text wait for no large library."""

import subprocess
import sys

LARGE = ("torch", "ray", "pyarrow", "diffusers", "numba", "faiss", "matplotlib", "scipy", "sklearn")


def loaded(code: str) -> set[str]:
    """The large libraries that a fresh interpreter has loaded after running `code`."""
    report = f"import sys\n{code}\nprint(*[name for name in {LARGE} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


def test_nothing_large_is_loaded():
    # One process for all: what an earlier step loads is still there after the last.
    steps = (
        "import side_ray",
        "import side_ray.cli",
        "from typer.testing import CliRunner",
        "assert CliRunner().invoke(side_ray.cli.app, ['--help']).exit_code == 0",
    )
    assert loaded("\n".join(steps)) == set()


def test_a_loaded_library_is_seen():
    assert "pyarrow" in loaded("import pyarrow")
