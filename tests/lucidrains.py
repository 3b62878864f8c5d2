"""denoising-diffusion-pytorch, with a stand-in for torchvision where that is not installed."""

import importlib
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

from tests.audits import ROOT

STANDINS = [] if find_spec("torchvision") else [str(Path(__file__).parent / "standins")]


def package() -> ModuleType:
    """The package. Its stand-in is gone again: others ask whether torchvision is there."""
    with patch.object(sys, "path", [*STANDINS, *sys.path]):
        found = importlib.import_module("denoising_diffusion_pytorch")
    if STANDINS:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
    return found


def environment() -> dict[str, str]:
    """Of a process, and of those that it starts, that import the package and side-ray."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *STANDINS])}
