"""A message to a webhook: one POST of a JSON document.

Belongs here: the request, what is repeated, and errors that name the host and nothing else of the URL, whose path or
query is the secret. Does not belong here: wording (``message``).

The document has the field ``text`` that Slack and those who imitate it show; the rest is for programs. Redirects are
not followed: they would carry the message where nobody sent it.
"""

from __future__ import annotations

import base64
import http.client
import json
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from accelbench_assets.notify.message import Message, NotifyError

TIMEOUT_S = 10.0
ATTEMPTS = 2
PAUSE_S = 0.5


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """None: the redirect's own status is the answer."""


def post(url: str, message: Message, *, timeout_s: float = TIMEOUT_S) -> None:
    """POST *message* to *url* (http or https; a user and password in it become basic authentication).

    Repeated once after a 5xx or a broken connection; not after *timeout_s* seconds without an answer, for it may
    have arrived. Proxies of the environment are used. Raises ``NotifyError``.
    """
    request, where = _request(url, message)
    opener = urllib.request.build_opener(_NoRedirect())
    for attempt in range(1, ATTEMPTS + 1):
        problem, curable = _once(opener, request, timeout_s)
        if problem is None:
            return
        if attempt == ATTEMPTS or not curable:
            raise NotifyError(
                f"The webhook at {where} {problem}.", hint="Check the setting notify.webhook_url."
            )
        time.sleep(PAUSE_S)


def _request(url: str, message: Message) -> tuple[urllib.request.Request, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = SplitResult("", "", "", "", ""), None, None
    if parts.scheme not in ("http", "https") or not host:
        raise NotifyError(
            "The webhook's URL is none of http:// or https://.",
            hint="Check the setting notify.webhook_url (ACCELBENCH_NOTIFY__WEBHOOK_URL).",
        )
    netloc = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "accelbench"}
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    address = urlunsplit((parts.scheme, netloc, parts.path or "/", parts.query, ""))
    body = json.dumps({**message.document, "text": _escaped(message.text)}, default=str).encode()
    return urllib.request.Request(address, body, headers), f"{parts.scheme}://{netloc}"  # noqa: S310 - checked


def _escaped(text: str) -> str:
    """As Slack wants it; else a line of a server's log could address a whole channel."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _once(
    opener: urllib.request.OpenerDirector, request: urllib.request.Request, timeout_s: float
) -> tuple[str | None, bool]:
    """What went wrong with one attempt (``None``: nothing), and whether another can cure it. Texts are our own: those
    of the library quote the URL.
    """
    try:
        with opener.open(request, timeout=timeout_s):
            return None, False
    except urllib.error.HTTPError as error:
        error.close()
        known = error.code in HTTPStatus._value2member_map_
        phrase = f" ({HTTPStatus(error.code).phrase})" if known else ""
        return f"answered {error.code}{phrase}", error.code >= 500
    except urllib.error.URLError as error:
        return _broken(error.reason, timeout_s)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _broken(error, timeout_s)


def _broken(reason: object, timeout_s: float) -> tuple[str, bool]:
    if isinstance(reason, TimeoutError):
        return f"did not answer within {timeout_s:g} s", False
    if isinstance(reason, http.client.BadStatusLine | http.client.IncompleteRead | ConnectionResetError):
        return "broke the connection off", True
    if isinstance(reason, OSError):
        return f"cannot be reached: {reason.strerror or type(reason).__name__}", True
    return "cannot be used as it is written", False
