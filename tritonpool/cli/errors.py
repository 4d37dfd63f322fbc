"""What the command line reports in one sentence instead of a traceback."""

from __future__ import annotations

__all__ = ["InputError", "Interrupted", "UsageError"]


class UsageError(Exception):
    """The command line itself cannot be right; the exit code is 2."""


class InputError(Exception):
    """The command line is fine, but a file or the machine is not; the exit code is 1."""


class Interrupted(InputError):
    """A training was ended from outside, as ``how`` says."""

    def __init__(self, how: str):
        super().__init__(f"{how}; --resume goes on with it")
        self.how = how
