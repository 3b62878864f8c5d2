"""The closest matches of each method, as pairs of training image and generated image."""

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from side_ray.config.base import Section
from side_ray.report import findings, wording
from side_ray.report.sections import PageData, PageSection

_PNG = b"\x89PNG\r\n\x1a\n"
TINY = 96
"""Width (pixels) up to which images are magnified without smoothing, which would add detail that is not in them."""


class GalleryOptions(Section):
    gallery: Annotated[int, Field(strict=True, ge=0, le=200)] = 12
    """Best distinct matches shown per method."""


class Gallery(PageSection):
    heading = contents = "Closest matches"
    Options = GalleryOptions

    def values(self, data: PageData) -> dict[str, Any]:
        closer = "smaller" if wording.lower_is_closer(data.metrics["similarity"]) else "greater"
        return {
            "strips": _strips(data.metrics, data.gallery, data.options(GalleryOptions).gallery),
            "similarity": wording.similarity_name(data.metrics["similarity"]),
            "closer": closer,
        }


def _strips(metrics: Mapping[str, Any], items: Sequence[Mapping[str, Any]], limit: int) -> list[dict[str, Any]]:
    """The items as one strip per method: closest first, each training image once."""
    closest_first = sorted(
        items, key=lambda each: each["value"], reverse=not wording.lower_is_closer(metrics["similarity"])
    )
    strips = []
    for method in findings.methods({"conditions": items}):
        distinct: dict[Any, Mapping[str, Any]] = {}
        for item in closest_first:
            if item["method"] == method:
                distinct.setdefault(item["train_id"], item)
        pairs = [_pair(metrics, item) for item in list(distinct.values())[:limit]]
        scales = {pair["scale"] for pair in pairs}
        first = next(iter(distinct.values()))
        title = wording.condition_name(first) if len(scales) == 1 else wording.method_name(method)
        if pairs:
            tiny = all(image["tiny"] for pair in pairs for image in (pair["train"], pair["sample"]))
            strips.append({"title": title, "pairs": pairs, "mixed": len(scales) > 1, "tiny": tiny})
    return strips


def _pair(metrics: Mapping[str, Any], item: Mapping[str, Any]) -> dict[str, Any]:
    train, sample, label = _image(item["train_png"]), _image(item["sample_png"]), item.get("label")
    beyond = None
    if metrics.get("cut") is not None:
        lower = wording.lower_is_closer(metrics["similarity"])
        beyond = item["value"] > metrics["cut"] if lower else item["value"] < metrics["cut"]
    return {
        "train": train,
        "sample": sample,
        "train_alt": f"Training image {item['train_id']}" + ("" if label is None else f", label {label}"),
        "sample_alt": f"Generated image, sample {item['sample_id']}",
        "value": wording.number(item["value"]),
        "train_id": item["train_id"],
        "sample_id": item["sample_id"],
        "scale": wording.scale_text(item.get("lambda")),
        "label": label,
        "group_size": item.get("group_size", 1),
        "beyond": beyond,
    }


def _image(png: bytes | None) -> dict[str, Any]:
    if png is None:
        return {"uri": "", "tiny": False}
    if not png.startswith(_PNG) or len(png) < 24:
        raise ValueError("an image of the gallery is not a PNG; encode it with side_ray.images.encode_png")
    width, height = struct.unpack(">II", png[16:24])
    uri = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
    return {"uri": uri, "width": width, "height": height, "tiny": width <= TINY}
