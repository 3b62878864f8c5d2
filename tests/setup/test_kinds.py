import json

from typer.testing import CliRunner

from side_ray.cli.app import app
from side_ray.registry import REGISTRIES
from side_ray.similarity import SIMILARITIES
from side_ray.similarity.nl2 import Nl2


def test_every_registered_name_is_listed_with_what_it_is():
    found = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    assert {key: list(names) for key, names in found.items()} == {key: each.names for key, each in REGISTRIES.items()}
    assert all(about for names in found.values() for about in names.values())
    assert next(iter(found)) == "dpm.denoiser"
    text = CliRunner().invoke(app, ["models"]).stdout
    assert "dpm.denoiser (models under audit)" in text


def test_an_item_from_outside_is_listed():
    class Mine(Nl2):
        """My own distance. It is better."""

    SIMILARITIES.register("mine", Mine)
    try:
        assert "  mine           My own distance" in CliRunner().invoke(app, ["models"]).stdout
    finally:
        SIMILARITIES.unregister("mine")
