"""The text of the theory study, for numbers computed on synthetic latents."""

import copy
from xml.etree import ElementTree

import numpy as np
import pytest

from side_ray.report.theory import theory_figures, theory_text, verdicts
from side_ray.theory.latents import analyse
from tests.theory.test_labels import hole


@pytest.fixture(scope="module")
def found():
    """A ring without its middle, whose label fails Eq. 8, beside labels that know nothing."""
    z, labels = hole()
    labellings = {"true": labels, "random": np.random.default_rng(0).permutation(labels), "cluster": 1 - labels}
    return {
        "dpm": "dpm/ab12cd34ef56",
        "kind": "train",
        "condition": "none",
        "images": 80,
        "members": 300,
        "dimension": 2,
        "points": 50,
        "ode_steps": 40,
        "probes": 1,
        "own_variance": 1e-4,
        "divergence": [
            {"epsilon": 1e-4, "value": 9.0, "error": 0.5, "per_dimension": 4.5},
            {"epsilon": 1e-2, "value": 3.0, "error": 0.4, "per_dimension": 1.5},
        ],
        "point_memorization": {
            "entropy": {"value": -3.0, "error": 0.1},
            "per_image": [{"epsilon": 1e-4, "value": 1e4, "error": 10.0}],
        },
        "latents": [{"latent": "x_t", "t": 250, **analyse(z, labellings, [0.01, 10.0], seed=0)}],
    }


def test_a_failing_label_is_named_and_the_average_is_said_to_hold(found):
    text = theory_text(found)
    assert (
        "true labels: Eq. 8 fails for 1 label (0) of 2; Theorem 2 fails for 1 label (0) of 2; the average holds" in text
    )
    assert "clusters: Eq. 8 fails for 1 label (1) of 2" in text
    assert "AVERAGE FAILS" not in text
    assert "drawn from 300 members" in text


def test_an_average_that_fails_would_be_said_loudly(found):
    broken = copy.deepcopy(found)
    broken["latents"][0]["labellings"]["random"]["pooled_ratio"] = 1.01
    assert theory_text(broken).count("THE AVERAGE FAILS") == 1


def test_a_radius_beyond_the_latents_own_width_makes_the_derivative_negative(found):
    rows = found["latents"][0]["gaussian"]
    assert [row["derivative"]["isotropic"] > 0 for row in rows] == [True, False]
    assert "of 2 rows it is negative in 1 of them" in theory_text(found)


def test_terminal_lines_quote_the_least_divergence(found):
    assert "ε = 0.01 (a variance): 3 ± 0.4 nats, 1.5 per dimension" in verdicts(found)[0]
    assert len(verdicts(found)) == 4


def test_a_conditional_model_has_no_pointwise_memorization(found):
    text = theory_text(found | {"point_memorization": None, "condition": "unique"})
    assert "p_θ(x|y), each point with its image's class" in text
    assert "M_point needs the density over all classes" in text


def test_singular_latents_are_said_to_have_no_derivative():
    z = np.random.default_rng(1).standard_normal((5, 9))
    latents = {"latent": "x_t", "t": 1, **analyse(z, {"random": np.arange(5) % 2}, [0.1], seed=0)}
    assert latents["gaussian"] is None
    assert latents["labellings"]["random"]["finite_ratios"] is None
    assert latents["labellings"]["random"]["pooled_ratio"] <= 1


def test_figures_are_svg_with_words(found):
    figures = list(theory_figures(found))
    assert [figure.name for figure in figures] == ["divergence", "labels-x-t-t250"]
    for figure in figures:
        ElementTree.fromstring(figure.svg)
        assert figure.alt
        assert "mathdefault" not in figure.svg
