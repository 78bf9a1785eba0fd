"""Refusals of the Kubernetes API as errors for people, with the failure code a run ends with.

Belongs here: the error type, and what a status and its reason mean for a run.
Does not belong here: whether a call is tried again (``calls``), what a pod's state means (``diagnose``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from accelbench_assets.errors import LaunchError
from accelbench_assets.scrub import scrub

MAX_TEXT = 600
"""Characters kept of a server's message: a refused template is repeated in it whole, several KB."""

_HINTS = {
    "api_denied": "`accelbench doctor` lists the rights that are missing; infra/ holds the Role that grants them.",
    "quota": "Wait for other runs to end, or raise the namespace's ResourceQuota.",
    "api_unavailable": "Nothing was lost: the reaper removes what may be left. Try again when the API answers.",
}


class KubeError(LaunchError):
    """The API refused a call or could not be asked.

    ``status`` is the HTTP status (0: no answer), ``reason`` the word of the API's Status (``NotFound``, ``Conflict``,
    …; empty if there was none), ``code`` one of ``api_denied``, ``api_unavailable``, ``bad_config``, ``conflict``,
    ``no_cluster``, ``quota``.
    """

    def __init__(
        self, message: str, *, code: str, status: int = 0, reason: str = "", hint: str | None = None
    ) -> None:
        super().__init__(message, code=code, hint=hint or _HINTS.get(code))
        self.status = status
        self.reason = reason


def read_status(body: bytes | str) -> dict[str, Any]:
    """The API's ``Status`` object in *body*; empty when it is something else (a proxy's page, nothing)."""
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) and document.get("kind") == "Status" else {}


def shown(text: str) -> str:
    """*text* of a server in one line, without secrets and not longer than ``MAX_TEXT``."""
    line = scrub(" ".join(text.split()))
    return line if len(line) <= MAX_TEXT else f"{line[: MAX_TEXT - 60]} … {line[-57:]}"


def refusal(status: int, body: bytes | str, doing: str) -> KubeError:
    """The error of an HTTP *status* with its *body*; *doing* is a gerund phrase (``creating Job x``)."""
    found = read_status(body)
    plain = body if isinstance(body, str) else body.decode("utf-8", "replace")
    message = shown(str(found.get("message") or plain)) or "no text"
    reason = str(found.get("reason") or "")
    code = failure_code(status, found)
    return KubeError(
        f"Kubernetes refused {doing}: {message.rstrip('.')} (HTTP {status}).",
        code=code,
        status=status,
        reason=reason,
    )


def failure_code(status: int, found: Mapping[str, Any]) -> str:
    """The failure code of an HTTP *status* with the API's Status object *found* (may be empty)."""
    message = str(found.get("message") or "")
    if status == 401:
        return "api_denied"
    if status == 403:
        if "exceeded quota" in message:
            return "quota"
        # Of the refusals with 403 only those of a user's rights name the user; the others are admission's.
        admission = " is forbidden: " in message and ' is forbidden: User "' not in message
        return "bad_config" if admission else "api_denied"
    if status == 404 and (found.get("details") or {}).get("kind") == "namespaces":
        return "no_cluster"
    if status == 409:
        return "conflict"
    if status == 429 or status >= 500:
        return "api_unavailable"
    return "bad_config"
