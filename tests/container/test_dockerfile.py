"""What the tests understand of a Dockerfile and of the file that says what is sent to the builder."""

import pytest

from tests.container.dockerfile import expanded, reaches_the_builder


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("README.md", True),
        ("side_ray/cli/app.py", True),
        ("jobs/configs/digits.yaml", True),
        ("side_ray/cli/__pycache__/app.cpython-311.pyc", False),
        ("jobs/__pycache__/audit.cpython-311.pyc", False),
        (".git/config", False),
        ("docs/README.md", False),
        ("side_rays/cli/app.py", False),
        ("tests/test_cluster.py", False),
    ],
)
def test_only_what_the_image_needs_is_sent_to_the_builder(path: str, sent: bool) -> None:
    assert reaches_the_builder(path) is sent


def test_a_name_is_replaced_by_its_value_and_an_unknown_one_by_nothing() -> None:
    assert expanded("python:${PYTHON}-$KIND$NONE/x", {"PYTHON": "3.11", "KIND": "slim"}) == "python:3.11-slim/x"
