"""Errors carry the config key that they are about, through pickling and renaming."""

import pickle

import pytest

from side_ray.errors import NotThere, RunError, UserError, naming, renamed


@pytest.mark.parametrize("error", [UserError("is bad", "data.path"), NotThere("gone", "run.uri"), RunError("stopped")])
def test_errors_survive_pickling(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.message, copy.key, copy.exit_code) == (
        str(error),
        error.message,
        error.key,
        error.exit_code,
    )


def test_the_key_stands_before_the_message():
    assert str(UserError("is bad; mend it", "data.path")) == "data.path: is bad; mend it"
    assert str(UserError("is bad; mend it")) == "is bad; mend it"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UserError("is bad"), "control.members: is bad"),
        (NotThere("is bad", "control.members"), "control.members: is bad"),
        (RunError("300 are wanted", "data.members"), "control.members: data.members: 300 are wanted"),
        # A key that the message merely mentions is not the key of the error.
        (UserError("lower control.members"), "control.members: lower control.members"),
    ],
)
def test_naming(error, text):
    with pytest.raises(UserError) as caught, naming("control.members"):
        raise error
    assert (type(caught.value), str(caught.value), caught.value.key) == (type(error), text, "control.members")


def test_renaming_changes_that_key_alone():
    with pytest.raises(NotThere, match=r"^given\.samples: no data\.path here$"), renamed("data.path", "given.samples"):
        raise NotThere("no data.path here", "data.path")
    with pytest.raises(UserError, match=r"^data\.labels_file: bad$"), renamed("data.path", "given.samples"):
        raise UserError("bad", "data.labels_file")


@pytest.mark.parametrize("key", [None, "data.path", "data.a_very_long_name_of_a_key"])
def test_a_message_is_one_line_of_at_most_400_characters(key):
    error = UserError("a\nb\r\x1b[31m\u2028\u202e\udce9" + "x" * 10_000 + "; do this", key)
    assert len(f"side-ray: {error}") <= 400
    assert str(error).isprintable()
    assert str(error).endswith("; do this")
    assert "a b \\x1b[31m\\u2028\\u202e\\udce9x" in str(error)
    copy = pickle.loads(pickle.dumps(UserError(["one", "two"] + ["x"] * 100)))
    assert str(copy).splitlines() == ["one", "two", *["x"] * 18, "… and 82 more"]
