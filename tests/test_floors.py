"""The floors of the package: modules import only their own floor and lower ones, without circles; few may import Ray."""

import ast
import importlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "side_ray"
FLOORS = (
    ("errors", "images", "registry", "config", "storage", "sources"),
    ("diffusion", "surrogate", "similarity", "search", "statistics", "theory"),
    ("runs", "report", "results"),
    ("execution", "training"),
    ("stages",),
    ("studies", "algorithm", "setup"),
    ("__init__", "cli"),
)
FLOOR = {name: number for number, names in enumerate(FLOORS, 1) for name in names}
KNOW_RAY = ("execution", "training", "studies/sweep")
"""Prefixes of the paths that may import Ray."""
MOST_FILES = 10
MODULES = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


def package_of(module: str) -> str:
    """The package or single module below `side_ray` that a module belongs to."""
    return module.split(".")[1]


def imported(path: Path, hints: bool = True) -> set[str]:
    """Full names of all modules that a file imports, including imports inside functions, and those of type hints alone if
    `hints`."""
    found, tree = set(), ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not hints:
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in MODULES or f"{name}.__init__" in MODULES else node.module)
    return {f"{name}.__init__" if f"{name}.__init__" in MODULES else name for name in found}


@cache
def imports() -> dict[str, set[str]]:
    """What each module imports."""
    return {module: imported(path) for module, path in MODULES.items()}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of two or more nodes that reach each other."""
    reach = {node: set(following) for node, following in graph.items()}
    for middle in graph:
        for node in graph:
            if middle in reach[node]:
                reach[node] |= reach[middle]
    groups = {tuple(sorted(b for b in graph if b in reach[a] and a in reach[b])) for a in graph}
    return sorted(list(group) for group in groups if len(group) > 1)


def between_packages() -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {name: set() for name in FLOOR}
    for module, names in imports().items():
        own = package_of(module)
        graph[own] |= {package_of(name) for name in names if name in MODULES} - {own}
    return graph


def test_every_package_has_a_floor():
    assert {package_of(module) for module in MODULES} == set(FLOOR)


def test_imports_go_down():
    upward = [
        f"{module} imports {name}"
        for module, names in imports().items()
        for name in names & set(MODULES)
        if FLOOR[package_of(name)] > FLOOR[package_of(module)]
    ]
    assert upward == []


def run_by(module: str, name: str) -> set[str]:
    """What runs when a module imports another: it, and before it the packages that it is in and the module is not."""
    parts = name.split(".")
    parents = {".".join(parts[:size]) for size in range(1, len(parts))}
    return {name} | {f"{each}.__init__" for each in parents if not module.startswith(f"{each}.")} & set(MODULES)


def test_modules_form_no_circle():
    assert circles({module: names & set(MODULES) for module, names in imports().items()}) == []


def test_modules_and_their_packages_form_no_circle():
    graph = {
        module: {each for name in imported(path, hints=False) & set(MODULES) for each in run_by(module, name)}
        for module, path in MODULES.items()
    }
    assert circles(graph) == []


def test_packages_form_no_circle():
    assert circles(between_packages()) == []


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]


def test_only_some_packages_know_ray():
    knowing = [
        str(MODULES[module].relative_to(PACKAGE))
        for module, names in imports().items()
        if any(name.split(".")[0] == "ray" for name in names)
    ]
    assert [path for path in knowing if not path.startswith(KNOW_RAY)] == []


@pytest.mark.parametrize("directory", sorted({path.parent for path in MODULES.values()}), ids=lambda path: path.name)
def test_no_package_is_crowded(directory):
    assert len([path for path in directory.glob("*.py") if path.name != "__init__.py"]) <= MOST_FILES
    assert ast.get_docstring(ast.parse((directory / "__init__.py").read_text()))


def test_stages_hardly_know_each_other():
    own = [module for module in MODULES if package_of(module) == "stages" and module != "side_ray.stages.__init__"]
    assert len(own) <= 11
    assert sum(len(imports()[module] & set(own)) for module in own) <= 15


@pytest.fixture
def no_modules() -> Iterator[None]:
    """Modules of side-ray and Ray are imported anew. Those of other libraries stay: torch refuses to load some twice."""

    def ours() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] in ("side_ray", "ray")]

    kept = {name: sys.modules.pop(name) for name in ours()}
    yield
    for name in ours():
        del sys.modules[name]
    sys.modules.update(kept)


def test_lower_floors_work_without_ray(no_modules):
    """Importing Ray fails. This process may have other libraries already."""
    lower = [module.removesuffix(".__init__") for module in MODULES if FLOOR[package_of(module)] <= 3]
    sys.modules["ray"] = None  # type: ignore[assignment]
    for module in lower:
        importlib.import_module(module)
    with pytest.raises(ImportError):
        importlib.import_module("side_ray.execution.session")._start()
