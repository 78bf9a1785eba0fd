"""One bounded HTTP request, and the error every look-up raises.

Belongs here: ``fetch`` with its limits of time and size, ``ReleaseError``.
Does not belong here: what any server's answer means (one module each).
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.scrub import scrub, url_without_credentials

TIMEOUT_S = 10.0
MAX_BYTES = 16 * 1024 * 1024
USER_AGENT = "accelbench"
_CHUNK = 64 * 1024
_ONLY_FOR_ITS_HOST = ("Authorization", "Cookie")


class ReleaseError(AccelBenchError):
    """A source of releases could not be asked, or said what cannot be used; names the source, never a credential."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers and body of an answer; ``url`` is where it came from in the end."""

    url: str
    status: int
    headers: Message
    body: bytes

    def document(self, what: str) -> dict[str, Any]:
        """The body as a JSON object. Raises ``ReleaseError`` naming *what*."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ReleaseError(f"{what} at {shown(self.url)} answered something that is no JSON object.")
        return found


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but takes no credential to another host and never leaves HTTPS."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        there, here = urlsplit(newurl), urlsplit(req.full_url)
        if here.scheme == "https" and there.scheme != "https":
            raise ReleaseError(f"{shown(req.full_url)} redirects to an address without encryption.")
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None:
            new.method = req.get_method()  # a HEAD stays one
        if new is not None and there.netloc != here.netloc:
            for name in _ONLY_FOR_ITS_HOST:
                new.remove_header(name)
        return new


def shown(url: str) -> str:
    """*url* as it may stand in a message."""
    try:
        return url_without_credentials(url)
    except ValueError:
        return "(not a URL)"


def checked(base: str, setting: str) -> str:
    """*base* without a trailing slash; ``ReleaseError`` naming the *setting* unless it is a plain http(s) URL."""
    try:
        parts = urlsplit(base)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        _ = parts.port
    except ValueError:
        usable = False
    if not usable:
        raise ReleaseError(
            f"Setting {setting} is not a usable address.",
            hint="It is http(s)://HOST[:PORT][/PATH], without credentials.",
        )
    return base.rstrip("/")


def fetch(
    url: str,
    what: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
    max_bytes: int = MAX_BYTES,
) -> Answer:
    """One request; answers below 500 are given back whatever they say, but for 429.

    *what* names the source in messages ("The package index"). *timeout_s* bounds each wait and, from the first byte of
    the body, the whole. Raises ``ReleaseError`` when there is no answer, an answer of 429 or 500 and above, or one of
    more than *max_bytes*.
    """
    sent = {"User-Agent": USER_AGENT, **(headers or {})}
    request = urllib.request.Request(url, method=method, headers=sent)  # noqa: S310 - see ``checked``
    opener = urllib.request.build_opener(_Redirects())
    try:
        try:
            response = opener.open(request, timeout=timeout_s)
        except urllib.error.HTTPError as error:
            response = error  # an answer like any other
        with response:
            status = int(response.status or 0)
            if status == 429 or status >= 500:
                raise ReleaseError(
                    f"{what} at {shown(url)} answered {status}.", hint="It is asked again later."
                )
            return Answer(
                response.url or url, status, response.headers, _read(response, what, timeout_s, max_bytes)
            )
    except ReleaseError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ReleaseError(
            f"{what} at {shown(url)} does not answer: {scrub(str(reason)) or type(reason).__name__}.",
            hint="It is asked again later.",
        ) from None


def _read(response: Any, what: str, timeout_s: float, max_bytes: int) -> bytes:
    end = time.monotonic() + timeout_s
    parts: list[bytes] = []
    size = 0
    while part := response.read1(_CHUNK):
        size += len(part)
        if size > max_bytes:
            raise ReleaseError(f"{what} at {shown(response.url)} answered more than {max_bytes} bytes.")
        if time.monotonic() > end:
            raise ReleaseError(
                f"{what} at {shown(response.url)} did not finish its answer in {timeout_s:g} s."
            )
        parts.append(part)
    declared = response.headers.get("Content-Length")
    if declared is not None and declared.isdigit() and response.length:
        raise ReleaseError(f"{what} at {shown(response.url)} broke off its answer.")
    return b"".join(parts)
