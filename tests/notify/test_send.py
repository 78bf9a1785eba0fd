"""All channels together: each is tried, none hides another, and nobody is told a secret."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from accelbench_assets.errors import LakeError
from accelbench_assets.lake.lake import Lake
from accelbench_assets.notify import webhook
from accelbench_assets.notify.message import Ended, Message
from accelbench_assets.notify.send import Delivery, channels, deliver, secrets_of
from accelbench_assets.notify.tell import tell
from accelbench_assets.settings_groups import NotifySettings
from tests.notify.conftest import DAGSTER_RUN, closed_port
from tests.notify.servers import Hook, Post, mail_server
from tests.support.runs import make_cell, make_record, put_run
from tests.support.waiting import until

PATH = "/services/T0/B0/canary7f3a"


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "PAUSE_S", 0.0)


@pytest.fixture
def post() -> Iterator[Post]:
    with mail_server() as server:
        yield server


def settings(hook: str | None, mail: str | None, **more: object) -> NotifySettings:
    return NotifySettings(
        webhook_url=None if hook is None else SecretStr(hook),
        smtp_url=None if mail is None else SecretStr(mail),
        **{"mail_from": "a@example.org", "mail_to": ("b@example.org",), **more},  # type: ignore[arg-type]
    )


def test_every_channel_is_tried(hook: Hook, post: Post, message: Message) -> None:
    both = settings(hook.url + PATH, f"smtp://127.0.0.1:{post.port}")
    assert deliver(message, both) == [Delivery("webhook"), Delivery("mail")]
    assert len(hook.documents) == len(post.mails) == 1
    assert [str(one) for one in deliver(message, settings(None, f"smtp://127.0.0.1:{post.port}"))] == [
        "mail: sent"
    ]
    assert deliver(message, NotifySettings()) == []
    assert channels(NotifySettings()) == ()


@pytest.mark.parametrize("broken", ["webhook", "mail"])
def test_a_channel_that_fails_hides_no_other(hook: Hook, post: Post, message: Message, broken: str) -> None:
    dead = f"127.0.0.1:{closed_port()}"
    both = settings(
        f"http://{dead}{PATH}" if broken == "webhook" else hook.url + PATH,
        f"smtp://me:canary-pw@{dead}" if broken == "mail" else f"smtp://127.0.0.1:{post.port}",
    )
    found = {one.channel: one.error for one in deliver(message, both)}
    error = str(found.pop(broken))
    assert "Connection refused" in error
    assert "canary" not in error
    assert list(found.values()) == [None]
    assert len(hook.documents) + len(post.mails) == 1


def test_a_channel_that_dribbles_is_left_behind(hook: Hook, post: Post, message: Message) -> None:
    hook.answers = [-2]
    started = time.monotonic()
    both = settings(hook.url + PATH, f"smtp://127.0.0.1:{post.port}")
    slow, mail = deliver(message, both, limit_s=0.5)
    assert slow == Delivery("webhook", "was not done within 0.5 s")
    assert mail.error in (None, slow.error)  # the latter on a machine that needs that long for it
    assert time.monotonic() - started < 60
    until(lambda: len(post.mails) == 1, "the mail comes")


def test_an_error_of_a_library_is_told_without_its_text(
    hook: Hook, post: Post, message: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(f"cannot use {hook.url}{PATH}")

    monkeypatch.setattr(webhook, "_once", broken)
    first, second = deliver(message, settings(hook.url + PATH, f"smtp://127.0.0.1:{post.port}"))
    assert first == Delivery("webhook", "failed with RuntimeError")
    assert second.error is None


@pytest.mark.parametrize("missing", ["mail_from", "mail_to"])
def test_half_a_channel_says_what_is_missing(post: Post, message: Message, missing: str) -> None:
    empty = {"mail_from": None, "mail_to": ()}[missing]
    (found,) = deliver(message, settings(None, f"smtp://127.0.0.1:{post.port}", **{missing: empty}))
    assert f"notify.{missing} is not" in str(found.error)
    assert post.mails == []


def test_the_secrets_of_the_settings_are_known() -> None:
    both = settings(f"https://hooks.example{PATH}?sig=canary-sig", "smtp://me:canary%40pw@mail.example:587")
    text = f"{PATH} canary7f3a sig=canary-sig canary%40pw canary@pw"
    for secret in secrets_of(both):
        text = text.replace(secret, "")
    assert "canary" not in text
    assert secrets_of(NotifySettings()) == ()


# -- the use case --------------------------------------------------------------------------------------------


def test_telling_of_a_run_takes_what_the_lake_knows(hook: Hook, local_lake: Lake) -> None:
    record = put_run(local_lake, make_record(make_cell(instance="g6e.xlarge"), dagster_run_id=DAGSTER_RUN))
    told = tell(
        Ended(DAGSTER_RUN, "success"),
        lambda: local_lake,
        settings(hook.url + PATH, None, page_url="http://ui"),
    )
    assert told == [Delivery("webhook")]
    (document,) = hook.documents
    assert document["run_id"] == record["run_id"]
    assert document["figures"]["output tokens/s"] == 1000.0
    assert document["link"] == f"http://ui/runs/{DAGSTER_RUN}"


def test_a_lake_that_is_down_costs_the_details_only(hook: Hook) -> None:
    def gone() -> Lake:
        raise LakeError("The lake s3://x cannot be read.")

    warned: list[str] = []
    ended = Ended(DAGSTER_RUN, "failure", error=f"posting to {hook.url}{PATH} failed")
    told = tell(ended, gone, settings(hook.url + PATH, None), warn=warned.append)
    assert told == [Delivery("webhook")]
    assert "The lake s3://x cannot be read." in warned[0]
    (document,) = hook.documents
    assert document["status"] == "failed"
    assert "canary" not in str(document), "the webhook's own address may stand in an error"
