"""Small audits for the tests: real digits and every stage, in the sizes of seconds."""

from pathlib import Path
from typing import Any

from side_ray.config import Config
from side_ray.config_file import parse_config

DIGITS = Path(__file__).parents[1] / "jobs" / "configs" / "digits.yaml"


def tiny_values(uri: str, **changes: Any) -> dict[str, Any]:
    """Values of an audit that takes seconds; `changes` are given as section__key=value or section={…}."""
    values: dict[str, Any] = {
        "run": {"uri": uri, "seed": 3},
        "data": {"source": "digits", "members": 60, "holdout": 60},
        "dpm": {
            "unet": {
                "block_out_channels": [16, 16],
                "down_block_types": ["DownBlock2D"] * 2,
                "up_block_types": ["UpBlock2D"] * 2,
                "layers_per_block": 1,
                "norm_num_groups": 8,
            },
            "steps": 160,
            "batch_size": 16,
            "lr": 1e-3,
            "ema_decay": 0.9,
            "checkpoint_every": 20,
        },
        "surrogate": {
            "classes": 5,
            "cohesion": 0.1,
            "synthetic": 400,
            "arch": "small",
            "stem": "cifar",
            "width": 8,
            "steps": 300,
            "ti_steps": 30,
            "batch_size": 64,
            "lr": 3e-3,
            "checkpoint_every": 100,
        },
        "extract": {
            "lambdas": [0, 2],
            "ti_lambdas": [1],
            "samples": 200,
            "shard_size": 50,
            "batch_size": 30,
            "sampler": "dpmsolver++",
            "steps": 4,
        },
        "score": {
            "bands": {"low": [0.9, 1.1], "mid": [0.7, 0.9], "high": [0, 0.7]},
            "shards": 2,
            "false_match_rate": 0.05,
        },
        "report": {"gallery": 3},
        "cluster": {"train_cpus": 1},
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        values[section] = {**values.get(section, {}), key: value} if key else value
    return values


def tiny_config(uri: str | Path, **changes: Any) -> Config:
    """`tiny_values`, checked."""
    return parse_config(tiny_values(str(uri), **changes), "tiny")
