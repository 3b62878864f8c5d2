"""Reading the JSON files of a model's directory."""

import json
from pathlib import Path

from side_ray.errors import UserError, first_line


def read_json(path: Path) -> dict:
    """A JSON object from a file.

    Raises:
        UserError: the file is absent, unreadable, or holds something other than an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, found a {type(content).__name__}")
    return content
