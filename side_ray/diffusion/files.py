"""Reading the JSON files of a model's directory."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from side_ray.errors import UserError, first_line

LARGEST_JSON = 64 << 20


def read_json(path: Path) -> dict:
    """A JSON object from a file.

    Raises:
        UserError: the file is absent, unreadable, or holds something other than an object.
    """
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise UserError(f"{path}: {path.stat().st_size:,} bytes are too many for a model's JSON; check the file")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, found a {type(content).__name__}")
    return content


def check_finite(tensors: Mapping[str, torch.Tensor], where: object) -> None:
    """Raise UserError if a tensor of the weights in `where` holds NaN or infinite values: they make every result meaningless."""
    wrong = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if wrong:
        raise UserError(
            f"the weights in {where} hold NaN or infinite values ({wrong[0]}"
            f"{f' and {len(wrong) - 1:,} more' if len(wrong) > 1 else ''}); give those of a training that did not diverge"
        )
