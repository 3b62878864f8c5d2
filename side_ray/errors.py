"""Errors that are for people: one line that names what is wrong, where, and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something that the person running side-ray can mend: a config, a path, a credential.

    The command line prints the message alone, without a traceback, and exits with `exit_code`.
    """

    exit_code = 2


class NotThere(UserError):
    """A path of the config leads nowhere, yet."""


class RunError(UserError):
    """A run that stopped, or finished with parts missing, for a reason outside its config."""

    exit_code = 1


@contextmanager
def naming(key: str) -> Iterator[None]:
    """Put the config's key before the message of a `UserError` raised inside, where it does not name it already."""
    try:
        yield
    except UserError as error:
        if key in str(error):
            raise
        raise type(error)(f"{key}: {error}") from error


def one_line(error: BaseException) -> str:
    """An error's type and message without the traceback that Ray puts into the message of a remote one."""
    cause = getattr(error, "cause", None) or error
    text = next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
    return f"{type(cause).__name__}: {text}"
