"""The presets of `side-ray reproduce`: tiny, digits and paper, one config each.

A new preset is one YAML file here and one line in `PER_CLASS`; a new table is one name in `TABLES` and one function in
`studies.reproduce`.
"""

from collections.abc import Sequence
from importlib import resources
from typing import Any

from side_ray.config import Config
from side_ray.config.file import parse_config, read_values
from side_ray.errors import UserError

BY_CLASSES = ("table2", "fig7")
"""Tables and figures that need one student per number of classes."""
TABLES = ("table1", "table2", "table3", "table4", "fig4", "fig5", "fig7")
"""All tables and figures that can be recomputed."""
PER_CLASS = {"tiny": 20, "digits": 40, "paper": 1200}
"""The presets, and the number of images per class that Table 2 samples in each."""
SCALE = 5.0
"""λ of Table 2 and Figure 7."""


def check_table(table: str) -> None:
    """Check that `table` is one of `TABLES`.

    Raises:
        UserError: it is not; the message names those that are.
    """
    if table not in TABLES:
        raise UserError(f"unknown table {table!r}: choose one of {', '.join(TABLES)}")


def preset_config(table: str, preset: str, overrides: Sequence[str] = ()) -> Config:
    """The config of a preset, adapted to the table.

    Raises:
        UserError: the table or preset is unknown, or an override is wrong.
    """
    check_table(table)
    if preset not in PER_CLASS:
        raise UserError(f"unknown preset {preset!r}: choose one of {', '.join(PER_CLASS)}")
    changes: dict[str, dict[str, Any]] = {}
    if table in BY_CLASSES:
        # One λ, a fixed number of images per class instead of N_G, and labels with a configurable number of classes.
        extract = {"samples": None, "samples_per_target": PER_CLASS[preset], "lambdas": [0, SCALE]}
        changes = {"extract": extract, "surrogate": {"labels": "cluster"}}
    with resources.as_file(resources.files(__package__) / f"{preset}.yaml") as path:
        values = read_values(path, **changes)
    return parse_config(values, f"preset {preset}", overrides)
