"""Small HTTP requests to a model server: bounded in time and size, never through a proxy, never with a secret
kept.

Belongs here: one request, its reply, and the completion that decides whether a server really answers.
Does not belong here: load (``loadgen``), what the answers mean for one engine (``engines``).
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from accelbench_assets.scrub import looks_secret, scrub

_MAX_BYTES = 8 * 2**20
PROBE_TOKENS = 16
_PROBE = {
    "messages": [{"role": "user", "content": "Reply with the single word ok."}],
    "max_tokens": PROBE_TOKENS,
    "temperature": 0,
    "stream": False,
}


class Unreachable(Exception):
    """No HTTP answer: refused, reset, not resolved, TLS failure or too slow. The text says which."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, headers (names in lower case) and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", errors="replace")

    def json(self) -> Any:
        """The parsed body; ``None`` when it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Server:
    """A base URL (no trailing slash, no ``/v1``) and the headers every request to it carries."""

    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold the API key

    def scrub(self, text: str) -> str:
        """*text* without secrets, those among the headers included: servers like to repeat a wrong key."""
        values = (value for name, value in self.headers.items() if looks_secret(name))
        return scrub(text, [value.rpartition(" ")[2] for value in values])

    def request(
        self, method: str, path: str, *, body: Mapping[str, Any] | None = None, timeout_s: float
    ) -> Reply:
        """One request on a connection of its own; raises ``Unreachable``. Redirects are not followed."""
        parts = urlsplit(self.base_url)
        headers = {"Accept": "*/*", "Connection": "close", "User-Agent": "accelbench-probe", **self.headers}
        payload = None if body is None else json.dumps(body).encode()
        if payload is not None:
            headers["Content-Type"] = "application/json"
        limit = time.monotonic() + timeout_s
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=max(0.05, timeout_s))
        try:
            connection.request(method, f"{parts.path}{path}", body=payload, headers=headers)
            response = connection.getresponse()
            content = b""
            while chunk := response.read1(65536):
                content += chunk
                if time.monotonic() > limit:
                    raise TimeoutError(f"no complete answer within {timeout_s:.0f} s")
                if len(content) > _MAX_BYTES:
                    raise http.client.HTTPException("the answer is larger than 8 MiB")
            if response.length:
                raise http.client.IncompleteRead(content, response.length)
            seen = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, seen, content)
        except ssl.SSLError as error:
            raise Unreachable(f"TLS failed: {error.reason or error}") from None
        except TimeoutError:
            raise Unreachable(f"no answer within {timeout_s:.0f} s") from None
        except OSError as error:
            raise Unreachable(error.strerror or str(error) or type(error).__name__) from None
        except (http.client.HTTPException, ValueError) as error:
            raise Unreachable(f"not an HTTP answer ({type(error).__name__})") from None
        finally:
            connection.close()

    def get(self, path: str, *, timeout_s: float = 5.0) -> Reply | None:
        """GET *path*; ``None`` unless the answer is a 200."""
        try:
            reply = self.request("GET", path, timeout_s=timeout_s)
        except Unreachable:
            return None
        return reply if reply.status == 200 else None

    def get_json(self, path: str) -> Any:
        """GET *path* as JSON; ``None`` unless the answer is a 200 with JSON."""
        reply = self.get(path)
        return None if reply is None else reply.json()


@dataclass(frozen=True, slots=True)
class Probe:
    """What one real completion showed."""

    ok: bool
    supports_ignore_eos: bool
    reply: Reply


def try_completion(server: Server, model: str, *, timeout_s: float) -> Probe:
    """Ask for one real answer, with ``ignore_eos`` first and without it where that is refused.

    ``ignore_eos`` counts as supported when the answer has exactly the tokens asked for. Chat is tried before
    plain completions (a model without a chat template has only those). Raises ``Unreachable``.
    """
    probe = Probe(False, False, Reply(0, {}, b""))
    chat: dict[str, Any] = {**_PROBE, "model": model}
    plain = {k: v for k, v in chat.items() if k != "messages"} | {"prompt": "Once upon a time"}
    for path, body in (("/v1/chat/completions", chat), ("/v1/completions", plain)):
        for extra in ({"ignore_eos": True, "min_tokens": PROBE_TOKENS}, {}):
            reply = server.request("POST", path, body={**body, **extra}, timeout_s=timeout_s)
            tokens = _completion_tokens(reply)
            probe = Probe(tokens > 0, bool(extra) and tokens == PROBE_TOKENS, reply)
            if probe.ok or reply.status in (401, 403, 429) or reply.status >= 500:
                return probe
    return probe


def _completion_tokens(reply: Reply) -> int:
    """Tokens of a completion that holds text; 0 for anything else. A server that counts none is taken to have
    sent one.
    """
    document = reply.json() if reply.status == 200 else None
    if (
        not isinstance(document, dict)
        or not isinstance(document.get("choices"), list)
        or not document["choices"]
    ):
        return 0
    choice = document["choices"][0]
    message = choice.get("message") or {}
    said = (
        message.get("content")
        or message.get("reasoning_content")
        or message.get("reasoning")
        or choice.get("text")
    )
    if not said:
        return 0
    usage = document.get("usage") or {}
    count = usage.get("completion_tokens")
    return count if isinstance(count, int) and count > 0 else 1
