"""Errors that are written for people.

Belongs here: the one exception family every layer raises for what a user can understand and act on.
Does not belong here: handling, printing (``cli``), classification of a request's failure (``loadgen``).
"""

from __future__ import annotations

import errno


class AccelBenchError(Exception):
    """Something a user can act on: what happened, to which thing, what to do.

    ``message`` is one sentence (or two); ``hint`` says what to do; ``exit_code`` is the process's answer
    (1 failed or void, 2 wrong usage). Never put a secret in either text.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class UsageError(AccelBenchError):
    """Bad input, refused at the edge; the text names the field."""

    exit_code = 2


class LakeError(AccelBenchError):
    """The lake could not be read or written; names the URI."""


class PublishError(AccelBenchError):
    """PostgreSQL could not be reached or refused the rows; nothing was half-published."""


class LaunchError(AccelBenchError):
    """An engine could not be started, did not become ready, or died.

    ``code`` is the ``failure_code`` of the run: ``missing_part``, ``port_busy``, ``model_not_found``,
    ``not_ready``, ``crashed``, ``unreachable``, ``auth``, ``deadline``, ``loadgen_failed``, ``disk_full``, …
    """

    def __init__(self, message: str, *, code: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code


class DeadlineExceeded(AccelBenchError):
    """The run's deadline passed; whatever was measured is kept and not published."""


def describe_os_error(error: OSError, doing: str, target: str) -> str:
    """One sentence for an ``OSError``: *doing* is a gerund phrase, *target* the path or URI."""
    if error.errno == errno.ENOSPC:
        return f"The disk is full: {doing} {target} failed. Free some space and run the command again."
    if error.errno == errno.EROFS or isinstance(error, PermissionError):
        return f"No permission to write: {doing} {target} failed. Choose another place or change its permissions."
    return f"{doing[:1].upper()}{doing[1:]} {target} failed: {error.strerror or error}."
