"""Any PyTorch model, by a function of the user's that describes it (`dpm.path: my_model.py:load`)."""

import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from side_ray.config.base import Section
from side_ray.diffusion.denoisers.base import ModelKind
from side_ray.errors import UserError, first_line

if TYPE_CHECKING:
    import torch

    from side_ray.config import DpmSection
    from side_ray.diffusion.dpm import Dpm

FILE = "function.json"


PREFIX = "side_ray_model_"
"""Of the names of modules with functions."""


class Function(ModelKind):
    """A directory with a Python file, the files that it reads, and `function.json`: which function of it returns the model."""

    Options: ClassVar[type[Section]] = Section
    runs_code = True

    @classmethod
    def recognizes(cls, directory: Path) -> bool:
        return (directory / FILE).exists()

    @classmethod
    def files(cls, names: Sequence[str], dpm: "DpmSection") -> list[str]:
        return list(names)

    @classmethod
    def load(cls, directory: Path, device: "torch.device | str") -> "Dpm":
        from side_ray.diffusion.condition import Condition
        from side_ray.diffusion.denoisers.adapted import AdaptedDpm, Model
        from side_ray.diffusion.files import read_json

        names = read_json(directory / FILE)
        path, name = directory / str(names.get("file")), str(names.get("function"))
        sys.path.insert(0, str(directory))  # for files beside it
        # The directory becomes part of a run, where no other file belongs.
        kept, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        before = set(sys.modules)
        try:
            model = Model.of(_function(path, name)(directory))
            condition = None if model.classes is None else Condition.load(directory, model.classes)
            return AdaptedDpm(model, condition).to(device)
        except UserError as error:
            raise UserError(f"{path.name}:{name} {error.message}") from error
        except Exception as error:
            raise UserError(f"{path.name}:{name} failed ({type(error).__name__}: {first_line(error)})") from error
        finally:
            sys.path.remove(str(directory))
            sys.dont_write_bytecode = kept
            # Another model of this process may have files of the same names. The function's own module has a name of its own.
            for each in [each for each in sys.modules.keys() - before if not each.startswith(PREFIX)]:
                if Path(getattr(sys.modules[each], "__file__", None) or "/").is_relative_to(directory):
                    del sys.modules[each]

    @classmethod
    def describe(cls, directory: Path, file: Path, function: str) -> None:
        """Write what `load` reads beside the files."""
        (directory / FILE).write_text(json.dumps({"file": file.name, "function": function}) + "\n")


def _function(path: Path, name: str) -> Callable[[Path], Any]:
    # A name of its own for each content: two models of one process may both come from a `model.py`.
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    spec = importlib.util.spec_from_file_location(f"{PREFIX}{digest}", path)
    if spec is None or spec.loader is None:
        raise UserError("is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    function: Any = getattr(module, name, None)
    if not callable(function):
        raise UserError("is not there: the file has no such function")
    found: Callable[[Path], Any] = function
    return found
