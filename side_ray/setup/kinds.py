"""What an audit can choose from: every registered name, with the first sentence of its documentation."""

import sys
from typing import Any

from side_ray.registry import REGISTRIES

TITLES = {
    "dpm.denoiser": "models under audit",
    "data.source": "training images",
    "extract.sampler": "samplers",
    "score.similarity": "similarities",
    "report.sections": "sections of the page",
}


def kinds() -> dict[str, dict[str, str]]:
    """By config key, the names that it may have and what each is; items registered from outside the package included."""
    return {
        key: {name: _sentence(registry[name]) for name in registry.names}
        for key, registry in sorted(REGISTRIES.items(), key=lambda each: list({**TITLES, each[0]: ""}).index(each[0]))
    }


def kinds_lines() -> list[str]:
    """`kinds` as lines of text."""
    lines = []
    for key, names in kinds().items():
        lines += [f"{key} ({TITLES[key]})" if key in TITLES else key]
        lines += [f"  {name:14} {about}".rstrip() for name, about in names.items()]
    return lines


def _sentence(item: Any) -> str:
    """What an item is: for one of the package the first sentence of its module, else that of the item itself."""
    own = item.__module__.startswith("side_ray.")
    text = (sys.modules[item.__module__].__doc__ if own else item.__doc__) or ""
    return " ".join(text.split("\n\n")[0].split()).partition(". ")[0].rstrip(".")
