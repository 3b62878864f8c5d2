"""Errors that are for people: one line that names what is wrong, where, and what to do."""


class UserError(Exception):
    """Something that the person running side-ray can mend: a config, a path, a credential.

    The command line prints the message alone, without a traceback, and exits with `exit_code`.
    """

    exit_code = 2


class RunError(UserError):
    """A run that stopped, or finished with parts missing, for a reason outside its config."""

    exit_code = 1
