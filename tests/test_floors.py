"""The floors of the house: a module imports its own floor and those below, and the two lower floors work without Ray."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "side_ray"
FLOOR = {
    **dict.fromkeys(
        (
            "errors",
            "images",
            "storage",
            "datasets",
            "sources",
            "run",
            "config",
            "config_file",
            "config_studies",
            "config_sweep",
            "config_training",
            "config_types",
            "presets",
            "__init__",
        ),
        1,
    ),
    **dict.fromkeys(("diffusion", "surrogate", "memorization", "report"), 2),
    **dict.fromkeys(("stages", "cli"), 3),
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_room_has_a_floor():
    assert {room(path) for path in MODULES} == set(FLOOR)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    own = FLOOR[room(path)]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "side_ray" and len(parts) > 1 and parts[1] in FLOOR:
            assert FLOOR[parts[1]] <= own, f"{path} imports {name} from a floor above"
        if parts[0] == "ray":
            assert own == 3, f"{path} imports ray"


def test_lower_floors_work_without_ray():
    rooms = [name for name, floor in FLOOR.items() if floor < 3 and name != "__init__"]
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "import pkgutil, importlib, side_ray\n"
        f"for room in {rooms}:\n"
        "    module = importlib.import_module('side_ray.' + room)\n"
        "    for each in pkgutil.walk_packages(getattr(module, '__path__', []), module.__name__ + '.'):\n"
        "        importlib.import_module(each.name)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
