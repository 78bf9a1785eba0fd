"""One call to the Kubernetes API: bounded in time, repeated where that is safe, its clock read.

Belongs here: sending through the official client, what is tried again and for how long, the server's time.
Does not belong here: paths and kinds (``client``), what a refusal means (``errors``).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from accelbench_assets.launch.kube.errors import KubeError, read_status, refusal, shown

CONNECT_S = 5.0
FIRST_CONTACT_S = 10.0
"""A cluster that never answered and refuses connections is given up after this long."""
MAX_BYTES = 64 * 2**20
_AGAIN = frozenset({429, 500, 502, 503, 504})
_LONGEST_PAUSE_S = 5.0
Query = Sequence[tuple[str, str]]


class NoAnswer(Exception):
    """No complete HTTP answer; the text says why. ``refused``: nobody listens there, or the name is unknown."""

    def __init__(self, text: str, *, refused: bool = False) -> None:
        super().__init__(text)
        self.refused = refused


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers (names in lower case) and whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.status <= 299


class Calls:
    """Sends calls; safe to use from several threads. Times are in seconds."""

    def __init__(self, api: Any, *, timeout_s: float, retry_s: float, complaints: Sequence[str] = ()) -> None:
        self._api = api
        self._complaints = complaints  # of the credential command, kept up to date by ``connect``
        self.timeout_s = timeout_s
        self.retry_s = retry_s
        self._lock = threading.Lock()
        self._offset: float | None = None  # server's POSIX time less our monotonic clock
        self._answered = False

    def send(
        self,
        method: str,
        path: str,
        doing: str,
        *,
        query: Query = (),
        body: Any = None,
        content_type: str | None = None,
        accept: str | None = None,
        expect: Sequence[int] = (),
        retry_s: float | None = None,
        timeout_s: float | None = None,
        repeat_conflict: bool = False,
    ) -> Answer:
        """The answer: a 2xx or one of *expect*. *doing* is a gerund phrase for errors.

        Repeats 429, 5xx, 401 (twice) and lost connections for *retry_s*; with *repeat_conflict* also a 409 of
        optimistic locking. Raises ``KubeError``.
        """
        began = time.monotonic()
        patience = self.retry_s if retry_s is None else retry_s
        tries = 0
        while True:
            tries += 1
            asked_to_wait = 0.0
            try:
                answer = self.once(
                    method,
                    path,
                    query=query,
                    body=body,
                    content_type=content_type,
                    accept=accept,
                    timeout_s=timeout_s,
                )
            except NoAnswer as error:
                failure = self._unavailable(doing, error, time.monotonic() - began)
                limit = min(patience, FIRST_CONTACT_S) if failure.code == "no_cluster" else patience
            else:
                if answer.ok or answer.status in expect:
                    return answer
                failure, limit = refusal(answer.status, answer.body, doing), patience
                if answer.status == 401 and self._complaints:
                    failure.hint = f"The kubeconfig's credential command failed: {self._complaints[-1]}"
                if not _may_repeat(answer, tries, repeat_conflict):
                    raise failure
                asked_to_wait = _retry_after(answer)
            pause = max(asked_to_wait, min(_LONGEST_PAUSE_S, 0.1 * 2**tries) * random.uniform(0.5, 1))
            left = began + limit - time.monotonic()
            if left <= 0:
                raise failure
            time.sleep(min(pause, left))

    def _unavailable(self, doing: str, error: NoAnswer, waited: float) -> KubeError:
        if error.refused and not self._answered:
            return KubeError(
                f"The Kubernetes cluster cannot be reached: {error} (while {doing}).",
                code="no_cluster",
                hint="Check the cluster's address in the kubeconfig and the network or VPN to it.",
            )
        return KubeError(
            f"The Kubernetes API gave no answer for {waited:.0f} s while {doing}: {error}.",
            code="api_unavailable",
        )

    def once(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: Any = None,
        content_type: str | None = None,
        accept: str | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """One try; any status. Raises ``NoAnswer``, and ``KubeError`` (``no_cluster``) when TLS fails."""
        from urllib3.exceptions import HTTPError

        limit = self.timeout_s if timeout_s is None else timeout_s
        sent = time.monotonic()
        opened = self.open(
            method, path, query=query, body=body, content_type=content_type, accept=accept, read_s=limit
        )
        if isinstance(opened, Answer):
            self._note(opened.headers, sent)
            return opened
        headers = {name.lower(): value for name, value in opened.headers.items()}
        self._note(headers, sent)
        content = bytearray()
        try:
            while piece := opened.read1(65536):
                content += piece
                if time.monotonic() - sent > 2 * limit:
                    raise NoAnswer(f"no complete answer within {2 * limit:.0f} s")
                if len(content) > MAX_BYTES:
                    raise NoAnswer("the answer is larger than 64 MiB")
        except (HTTPError, OSError) as error:
            raise NoAnswer(_why(error, limit)) from None
        except NoAnswer:
            opened.close()
            raise
        opened.release_conn()
        return Answer(opened.status, headers, bytes(content))

    def open(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: Any = None,
        content_type: str | None = None,
        accept: str | None = None,
        read_s: float,
    ) -> Any:
        """A 2xx as urllib3's response, its body not yet read; any other status as :class:`Answer`.

        *read_s* bounds the wait for each piece. Raises as :meth:`once`.
        """
        from kubernetes.client.exceptions import ApiException
        from kubernetes.config import ConfigException
        from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError

        headers = {"Accept": accept or "application/json"}
        if body is not None:
            headers["Content-Type"] = content_type or "application/json"
        try:
            return self._api.call_api(
                path,
                method,
                {},
                list(query),
                headers,
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=(min(CONNECT_S, read_s), read_s),
            )
        except ApiException as error:
            return _refused(error)
        except (UnicodeDecodeError, AttributeError) as error:  # of decoding an error's body
            if isinstance(error.__context__, ApiException):
                return _refused(error.__context__)
            raise NoAnswer("an unreadable answer") from None
        except (NewConnectionError, NameResolutionError) as error:
            raise NoAnswer(_why(error, read_s), refused=True) from None
        except (HTTPError, OSError, ConfigException) as error:
            raise NoAnswer(_why(error, read_s)) from None

    # -- the server's clock ----------------------------------------------------------------------------------

    def _note(self, headers: Mapping[str, str], sent: float) -> None:
        """Narrow down the server's clock: the header has whole seconds, cut off, so each answer gives a range."""
        received = time.monotonic()
        try:
            date = parsedate_to_datetime(headers.get("date", "")).timestamp()
        except (TypeError, ValueError):
            date = None
        with self._lock:
            self._answered = True
            if date is not None:
                low, high = date - received, date + 1 - sent
                self._offset = low if self._offset is None else min(max(self._offset, low), high)

    def server_time(self) -> datetime | None:
        """The server's time, at most about a second behind it; ``None`` before the first answer with a date."""
        with self._lock:
            if self._offset is None:
                return None
            return datetime.fromtimestamp(0, UTC) + timedelta(seconds=self._offset + time.monotonic())


def _refused(error: Any) -> Answer:
    if not error.status:  # the client's way to report that TLS failed
        why = shown(str(error.reason))
        if "certificate" not in why.lower():
            raise NoAnswer(why)  # the connection was cut within the handshake
        raise KubeError(
            f"No safe connection to the Kubernetes API: {why}.",
            code="no_cluster",
            hint="Check the cluster's address and certificate-authority in the kubeconfig.",
        )
    body = error.body.encode() if isinstance(error.body, str) else (error.body or b"")
    headers = {str(name).lower(): str(value) for name, value in (error.headers or {}).items()}
    return Answer(int(error.status), headers, body)


def _may_repeat(answer: Answer, tries: int, repeat_conflict: bool) -> bool:
    if answer.status == 409:
        return repeat_conflict and read_status(answer.body).get("reason") != "AlreadyExists"
    # A token may run out between being read and being checked, and an authenticator may hiccup.
    return answer.status in _AGAIN or (answer.status == 401 and tries <= 2)


def _retry_after(answer: Answer) -> float:
    told = answer.headers.get("retry-after") or (read_status(answer.body).get("details") or {}).get(
        "retryAfterSeconds", 0
    )
    try:
        return min(30.0, max(0.0, float(told)))
    except (TypeError, ValueError):
        return 0.0


def _why(error: Exception, limit: float) -> str:
    name = type(error).__name__
    if "Timeout" in name:
        return f"no answer within {limit:.0f} s"
    text = str(error).rpartition("): ")[2] or str(error)
    return shown(text) or name
