"""The three sizes in which the paper's tables are recomputed: tiny, digits and paper, a config each."""

from collections.abc import Sequence
from importlib import resources
from typing import Any

from side_ray.config import Config
from side_ray.config.file import parse_config, read_values
from side_ray.errors import UserError

BY_CLASSES = ("table2", "fig7")
"""What needs a student for each number of classes."""
TABLES = ("table1", "table2", "table3", "table4", "fig4", "fig5", "fig7")
PER_CLASS = {"tiny": 20, "digits": 40, "paper": 1200}
"""The presets, and how many images of each class Table 2 takes in them."""
SCALE = 5.0
"""λ of Table 2."""


def check_table(table: str) -> None:
    """Refuse what is no table or figure that can be recomputed.

    Raises:
        UserError: names those that can.
    """
    if table not in TABLES:
        raise UserError(f"unknown table {table!r}: choose one of {', '.join(TABLES)}")


def preset_config(table: str, preset: str, overrides: Sequence[str] = ()) -> Config:
    """The config of a preset as the table needs it.

    Raises:
        UserError: an unknown table or preset, or a fault in the overrides.
    """
    check_table(table)
    if preset not in PER_CLASS:
        raise UserError(f"unknown preset {preset!r}: choose one of {', '.join(PER_CLASS)}")
    changes: dict[str, dict[str, Any]] = {}
    if table in BY_CLASSES:
        # One λ, as many images for each class instead of N_G, and classes whose number can be chosen.
        extract = {"samples": None, "samples_per_target": PER_CLASS[preset], "lambdas": [0, SCALE]}
        changes = {"extract": extract, "surrogate": {"labels": "cluster"}}
    with resources.as_file(resources.files(__package__) / f"{preset}.yaml") as path:
        values = read_values(path, overrides, **changes)
    return parse_config(values, f"preset {preset}")
