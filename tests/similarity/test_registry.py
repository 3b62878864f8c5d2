"""A similarity that is registered from outside the package: one class, and section `score`, the bands and the scores know it."""

import pickle
from typing import ClassVar

import numpy as np
import pytest

from side_ray.config import ScoreSection
from side_ray.config.base import Count, Section, omitted_by_default
from side_ray.config.file import parse_config
from side_ray.errors import UserError
from side_ray.search import Neighbors
from side_ray.similarity import SIMILARITIES, similarity_of
from side_ray.similarity.base import Presets, Similarity
from side_ray.statistics.bands import bands_of
from tests.audits import tiny_config, tiny_values


class HistogramOptions(Section):
    bins: Count = omitted_by_default(8)


class Histogram(Similarity):
    """Cosine of gray-value histograms."""

    Options = HistogramOptions
    name = "histogram"
    display_name = "histogram cosine"
    larger_is_closer = True
    metric = "ip"
    presets: ClassVar[Presets] = {"histogram": {"low": (0.5, 0.9), "high": (0.9, 1.0)}}
    default_preset = "histogram"

    def __init__(self, bins):
        self.bins = bins

    @classmethod
    def from_config(cls, score):
        return cls(score.options(HistogramOptions).bins)

    @classmethod
    def dimension(cls, shape):
        return 8

    def params(self):
        return {"bins": self.bins}

    def embed(self, images):
        counts = np.stack([np.histogram(image, self.bins, (0, 256))[0] for image in images]).astype(np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    def values(self, neighbors: Neighbors):
        return neighbors.values.astype(np.float32)


@pytest.fixture
def registered():
    SIMILARITIES.register("histogram", Histogram)
    yield
    SIMILARITIES.unregister("histogram")


def test_a_similarity_from_outside_has_its_keys_bands_and_direction(registered):
    config = tiny_config("run", score={"similarity": "histogram", "bins": 4})
    similarity = similarity_of(config.score)
    assert similarity.params() == {"bins": 4}
    assert similarity.embed(np.zeros((2, 3, 3, 1), np.uint8)).tolist() == [[1, 0, 0, 0]] * 2
    bands = bands_of(config)
    assert (bands.names, bands.larger_is_closer) == (["low", "high"], True)
    assert config.score.settings() == {"similarity": "histogram", "neighbors": 50, "bins": 4}


def test_a_pickled_section_brings_its_similarity_to_another_process(registered):
    sent = pickle.dumps(tiny_config("run", score={"similarity": "histogram", "bins": 4}))
    SIMILARITIES.unregister("histogram")
    assert similarity_of(pickle.loads(sent).score).params() == {"bins": 4}


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ({"bins": 4}, "score.bins: is for score.similarity histogram, not nl2; drop it"),
        (
            {"similarity": "histogram", "bands": "paper"},
            "score.bands: preset paper is for score.similarity nl2; use histogram, or bands of your own",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(registered, score, message):
    with pytest.raises(UserError) as caught:
        parse_config(tiny_values("run", score=score), "audit.yaml")
    assert str(caught.value) == f"audit.yaml: {message}"


def test_keys_of_sscd_may_stand_beside_nl2_where_labels_read_them_but_are_no_part_of_its_scores():
    score = ScoreSection(similarity="nl2", checkpoint="weights.pt", preprocessing="center224")  # type: ignore[call-arg]
    assert score.settings() == {"similarity": "nl2", "neighbors": 50}
    sscd = ScoreSection(similarity="sscd", checkpoint="weights.pt")  # type: ignore[call-arg]
    assert sscd.settings() == {
        "similarity": "sscd",
        "neighbors": 50,
        "checkpoint": "weights.pt",
        "preprocessing": "resize288",
    }


@pytest.mark.parametrize("name", SIMILARITIES.names)
def test_registered_similarities_describe_themselves(name):
    item = SIMILARITIES[name]
    assert item.name == name
    assert item.display_name
    assert item.default_preset in item.presets
    assert item.dimension((8, 8, 3)) == {"nl2": 192, "sscd": 512, "descriptor": 1024}.get(name)
