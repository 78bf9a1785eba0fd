"""The webhook against a real server: what is sent, what is repeated, and errors without the URL's secret."""

from __future__ import annotations

import base64
import dataclasses
import socket
import time
import traceback

import pytest

from accelbench_assets.notify import webhook
from accelbench_assets.notify.message import Message, NotifyError
from tests.notify.conftest import closed_port
from tests.notify.servers import Hook

SECRET = "T0/B0/canary7f3a"
PATH = f"/services/{SECRET}?sig=canary-sig"


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "PAUSE_S", 0.0)


def refused(url: str, message: Message, *, timeout_s: float = 5.0) -> NotifyError:
    with pytest.raises(NotifyError) as caught:
        webhook.post(url, message, timeout_s=timeout_s)
    error = caught.value
    shown = "".join(traceback.format_exception(error.with_traceback(None))) + str(error) + repr(error)
    assert "canary" not in shown
    return error


def test_the_document_arrives_with_the_text_that_slack_shows(hook: Hook, message: Message) -> None:
    nasty = dataclasses.replace(message, text=message.text + "\n<!channel> a & b 漢")
    webhook.post(hook.url + PATH, nasty)
    (request,), (document,) = hook.requests, hook.documents
    assert request["path"] == PATH
    assert request["headers"]["Content-Type"].startswith("application/json")
    text = document.pop("text")
    assert document == message.document
    assert text.startswith(message.subject)
    assert text.endswith("&lt;!channel&gt; a &amp; b 漢")


def test_user_and_password_become_basic_authentication(hook: Hook, message: Message) -> None:
    webhook.post(hook.url.replace("://", "://me:canary%40pw@") + "/x", message)
    (request,) = hook.requests
    assert base64.b64decode(request["headers"]["Authorization"].removeprefix("Basic ")) == b"me:canary@pw"
    assert "canary" not in request["headers"]["Host"]


@pytest.mark.parametrize("first", [500, 503, 0], ids=["500", "503", "broken off"])
def test_what_may_pass_is_repeated_once(hook: Hook, message: Message, first: int) -> None:
    hook.answers = [first, 204]
    webhook.post(hook.url + PATH, message)
    assert [document["subject"] for document in hook.documents] == [message.subject] * 2


@pytest.mark.parametrize(
    ("answer", "tries", "text"),
    [
        (500, 2, "answered 500 (Internal Server Error)"),
        (404, 1, "answered 404 (Not Found)"),
        (429, 1, "answered 429 (Too Many Requests)"),
        (599, 2, "answered 599."),
        (0, 2, "broke the connection off"),
    ],
)
def test_a_refusal_names_the_host_and_the_answer(
    hook: Hook, message: Message, answer: int, tries: int, text: str
) -> None:
    hook.answers = [answer]
    error = refused(hook.url + PATH, message)
    assert len(hook.requests) == tries
    assert error.message.startswith(f"The webhook at {hook.url} ")
    assert text in error.message
    assert "notify.webhook_url" in str(error.hint)


def test_a_redirect_is_not_followed(hook: Hook, message: Message) -> None:
    hook.answers = [hook.url + "/elsewhere"]
    assert "answered 302" in refused(hook.url + PATH, message).message
    assert [request["path"] for request in hook.requests] == [PATH]


def test_a_server_that_is_down_or_unknown(message: Message) -> None:
    port = closed_port()
    assert (
        "cannot be reached: Connection refused" in refused(f"http://127.0.0.1:{port}{PATH}", message).message
    )
    with socket.socket() as lent:  # connections are taken by nobody and refused by nobody
        lent.bind(("127.0.0.1", 0))
        lent.listen(0)
        full = [socket.create_connection(lent.getsockname()) for _ in range(1)]
        late = refused(f"http://127.0.0.1:{lent.getsockname()[1]}{PATH}", message, timeout_s=0.3)
        for line in full:
            line.close()
    assert "did not answer within 0.3 s" in late.message


def test_an_answer_that_does_not_come_is_not_waited_for_and_not_repeated(
    hook: Hook, message: Message
) -> None:
    hook.answers = [-1]
    started = time.monotonic()
    assert "did not answer within 0.3 s" in refused(hook.url + PATH, message, timeout_s=0.3).message
    assert time.monotonic() - started < 60
    assert len(hook.requests) <= 1  # none, if its time was over before the server had read it


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/canary",
        "ftp://canary@127.0.0.1/x",
        "canary",
        "http:///canary",
        "http://127.0.0.1:canary/x",
        "http://[canary/x",
        "http://127.0.0.1:1/can ary-canary",
        "http://127.0.0.1:1/canary\n",
    ],
)
def test_an_address_that_is_none(url: str, message: Message) -> None:
    refused(url, message)
