"""Similarities γ between images (descriptors): a module per similarity, each one class below `base.Similarity`.

A new similarity is one file and one line here. The class says how images become features, how a value follows from the nearest
features, in which direction values are closer, its band presets, its name in the report, and which config keys it adds to
section `score`. `encoder` runs networks in TorchScript or ONNX, for similarities that need one.
"""

from typing import TYPE_CHECKING

from side_ray.registry import Registry

if TYPE_CHECKING:
    from side_ray.config import ScoreSection
    from side_ray.similarity.base import Similarity

SIMILARITIES: "Registry[type[Similarity]]" = Registry(
    "score.similarity",
    {
        "nl2": "side_ray.similarity.nl2:Nl2",
        "sscd": "side_ray.similarity.sscd:Sscd",
        "descriptor": "side_ray.similarity.descriptor:Descriptor",
    },
)


def similarity_of(score: "ScoreSection") -> "Similarity":
    """The similarity that the config names, ready to embed images.

    Raises:
        UserError: its weights cannot be loaded.
    """
    return SIMILARITIES[score.similarity].from_config(score)
