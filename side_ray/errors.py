"""Errors for the user: one line that says what is wrong, where, and what to do."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

LONGEST_LINE = 400
MOST_LINES = 20
PROGRAM = "side-ray: "
"""Begins what the command line prints of an error."""


CREDENTIALS = re.compile(
    # A user before the host; or a user and a password with slashes in it, which is no host and port.
    r"(?:(?<=://)|(?<=^//)|(?<=[\s'\"=(\[]//))(?:[^/\s]+@|[^/\s:@\[]+:(?!\d+(?:/|$))\S*@)"
    # Signatures and tokens in the query of a URL.
    r"|(?<=[?&])((?:[\w.-]*(?:signature|token|secret|password|credential|accesskey)[\w.-]*|sig)=)[^&\s]+",
    re.IGNORECASE | re.MULTILINE,
)
"""What is secret in URLs."""


def masked(text: str) -> str:
    """The text without users, passwords, signatures and tokens in URLs."""
    return CREDENTIALS.sub(lambda found: f"{found[1]}***" if found[1] else "***@", text)


def check_credentials(text: str, where: str | None = None) -> None:
    """Raise UserError if a text is a URL with credentials, or holds one: it would be written to files.

    Args:
        where: the config key, or what the text is.
    """
    if CREDENTIALS.search(text):
        raise UserError(
            "holds credentials in a URL, which would be written to files; give them in the environment, for S3 as "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            where,
        )


def printable(text: str) -> str:
    """The text without secrets, on one line: a name in it may hold line breaks or the codes that steer a terminal."""
    return _UNPRINTABLE.sub(_escaped, masked(text))


def _escaped(found: re.Match[str]) -> str:
    return " " if found[0] in "\n\r" else found[0].encode("unicode_escape").decode()


_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def bounded(message: str, most: int = LONGEST_LINE) -> str:
    """A message without secrets on one line of at most `most` characters, its beginning and its end."""
    line = printable(message)
    return line if len(line) <= most else f"{line[: most * 2 // 3 - 3]} … {line[-(most // 3) :]}"


class UserError(Exception):
    """Something that the user can correct: a config, a path, a credential.

    The command line prints the message alone, without a traceback, and exits with `exit_code`. The error can be pickled, so
    that it crosses from a Ray worker to the driver.

    Args:
        message: what is wrong and what to do, on one line; or a line for each fault of a config, of which `MOST_LINES` are kept.
        key: the config key to change (`section.name`); `str()` puts it before the message.
    """

    exit_code = 2

    def __init__(self, message: str | Sequence[str], key: str | None = None) -> None:
        lines = [message] if isinstance(message, str) else list(message)
        kept = [bounded(line, LONGEST_LINE - len(f"{PROGRAM}{key or ''}: ")) for line in lines[:MOST_LINES]]
        if len(lines) > MOST_LINES:
            kept.append(f"… and {len(lines) - MOST_LINES:,} more")
        super().__init__(kept if len(kept) > 1 else kept[0], key)
        self.message, self.key = "\n".join(kept), key

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" if self.key else self.message

    def under(self, key: str) -> Self:
        """The same error under another key."""
        return type(self)(self.message, key)


class NotThere(UserError):
    """A path in the config does not exist."""


class RunError(UserError):
    """A run stopped, or finished with parts missing, for a reason outside its config."""

    exit_code = 1


class CheckFailed(UserError):
    """A command has done its work, and what it was asked to check does not hold."""

    exit_code = 3


class Damaged(Exception):
    """Files of the run are missing, not whole, or copies of other files. Delete `doomed` and make them again.

    Not a `UserError`: the run mends it itself.

    Args:
        keys: the damaged files.
        reason: what is wrong with the first one.
        also: files that have to be made again with them.
    """

    def __init__(self, keys: Iterable[str], reason: str, also: Iterable[str] = ()) -> None:
        self.keys, self.reason, self.also = list(keys), reason, list(also)
        super().__init__(self.keys, reason, self.also)

    def __str__(self) -> str:
        more = len(self.keys) - 1
        return f"{self.keys[0]} {self.reason}{f', and {more:,} more like it' if more else ''}"

    @property
    def doomed(self) -> list[str]:
        return [*self.keys, *self.also]


def joined(damages: Sequence[Damaged]) -> Damaged:
    """One error for several: all files, and the reason of the first."""
    keys = dict.fromkeys(key for damage in damages for key in damage.keys)
    return Damaged(keys, damages[0].reason, dict.fromkeys(key for damage in damages for key in damage.also))


@contextmanager
def naming(key: str) -> Iterator[None]:
    """Put `key` before the message of a `UserError` raised inside, unless it is about that key already."""
    try:
        yield
    except UserError as error:
        if error.key == key:
            raise
        raise type(error)(str(error), key) from error


@contextmanager
def renamed(key: str, other: str) -> Iterator[None]:
    """Let a `UserError` about `key` that is raised inside name the key `other` instead."""
    try:
        yield
    except UserError as error:
        if error.key != key:
            raise
        raise error.under(other) from error


def one_line(error: BaseException) -> str:
    """An error's type and message without the traceback that Ray puts into the message of a remote one."""
    cause = getattr(error, "cause", None) or error
    text = next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
    return f"{type(cause).__name__}: {text}"


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, for messages that must stay on one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
