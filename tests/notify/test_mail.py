"""Mail through a real SMTP server: the mail, the login, TLS, and errors without the password."""

from __future__ import annotations

import time
import traceback
from pathlib import Path

import pytest

from accelbench_assets.notify.mail import send_mail
from accelbench_assets.notify.message import Message, NotifyError
from tests.notify.conftest import closed_port
from tests.notify.servers import mail_server
from tests.support.certificate import certificate as self_signed

PASSWORD = "canary@pw/9"
QUOTED = "canary%40pw%2F9"
FROM, TO = "AccelBench <bench@example.org>", ("ops@example.org", "Ann <ann@example.org>")


def refused(url: str, message: Message, *, timeout_s: float = 5.0) -> NotifyError:
    with pytest.raises(NotifyError) as caught:
        send_mail(url, FROM, TO, message, timeout_s=timeout_s)
    error = caught.value
    shown = "".join(traceback.format_exception(error.with_traceback(None))) + str(error) + repr(error)
    assert "canary" not in shown
    return error


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and self-signed certificate of 127.0.0.1 in one file."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = self_signed(folder)
    both = folder / "both.pem"
    both.write_bytes(key.read_bytes() + cert.read_bytes())
    return both


def test_a_mail_arrives_at_every_receiver(message: Message) -> None:
    with mail_server() as post:
        send_mail(f"smtp://127.0.0.1:{post.port}", FROM, TO, message)
    (mail,) = post.mails
    assert post.receivers == [["ops@example.org", "ann@example.org"]]
    assert mail["Subject"] == message.subject
    assert mail["From"] == FROM
    assert mail["To"] == "ops@example.org, Ann <ann@example.org>"
    assert mail["Message-ID"].endswith("@example.org>")
    assert mail["Date"]
    assert mail.get_content().split() == message.text.split()
    assert post.verbs[-1] == "QUIT"


def test_the_login_is_that_of_the_url(message: Message) -> None:
    with mail_server(login=("me@x", PASSWORD)) as post:
        send_mail(f"smtp://me%40x:{QUOTED}@127.0.0.1:{post.port}", FROM, TO, message)
        assert len(post.mails) == 1
        error = refused(f"smtp://me%40x:canary-wrong@127.0.0.1:{post.port}", message)
    assert error.message == f"The mail server 127.0.0.1:{post.port} refused the login (535)."


def test_starttls_is_taken_when_offered_and_verified(
    message: Message, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mail_server(tls=certificate, login=("me", PASSWORD)) as post:
        url = f"smtp://me:{QUOTED}@127.0.0.1:{post.port}"
        assert "certificate that cannot be verified" in refused(url, message).message
        assert "AUTH" not in post.verbs, "the password goes to no server that is not verified"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        send_mail(url, FROM, TO, message)
    assert post.secure == [True]
    assert post.verbs.index("STARTTLS") < post.verbs.index("AUTH")


def test_smtps_is_tls_from_the_first_byte(
    message: Message, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with mail_server(tls=certificate, at_once=True) as post:
        send_mail(f"smtps://127.0.0.1:{post.port}", FROM, TO, message)
    assert post.secure == [True]


def test_a_password_is_not_sent_in_the_clear_to_another_machine(
    message: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelbench_assets.notify import mail

    monkeypatch.setattr(mail, "_is_here", lambda host: False)
    with mail_server(login=("me", PASSWORD)) as post:
        assert "offers no TLS" in refused(f"smtp://me:{QUOTED}@127.0.0.1:{post.port}", message).message
        send_mail(f"smtp://127.0.0.1:{post.port}", FROM, TO, message)  # without one it may go
    assert "AUTH" not in post.verbs


def test_what_counts_as_this_machine() -> None:
    from accelbench_assets.notify.mail import _is_here

    assert [_is_here(host) for host in ("localhost", "127.0.0.1", "127.1.2.3", "::1")] == [True] * 4
    assert [_is_here(host) for host in ("mail.example.org", "10.0.0.1", "localhost.example.org")] == [
        False
    ] * 3


def test_refused_receivers_are_named_and_the_others_get_their_mail(message: Message) -> None:
    with mail_server(refuse=("ann@example.org",)) as post:
        error = refused(f"smtp://127.0.0.1:{post.port}", message)
        assert "refused Ann <ann@example.org>" in error.message
        assert post.receivers == [["ops@example.org"]]
        assert len(post.mails) == 1
    with mail_server(refuse=("ops@example.org", "ann@example.org")) as post:
        assert (
            "refused Ann <ann@example.org>, ops@example.org"
            in refused(f"smtp://127.0.0.1:{post.port}", message).message
        )
        assert post.mails == []


@pytest.mark.parametrize("hang", ["EHLO", "DATA"])
def test_a_server_that_hangs_is_not_waited_for(message: Message, hang: str) -> None:
    started = time.monotonic()
    with mail_server(hang=hang) as post:
        error = refused(f"smtp://127.0.0.1:{post.port}", message, timeout_s=0.3)
    assert "did not answer within 0.3 s" in error.message
    assert time.monotonic() - started < 60


def test_a_server_that_is_down_or_does_not_want_to(message: Message) -> None:
    port = closed_port()
    url = f"smtp://me:{QUOTED}@127.0.0.1:{port}"
    assert f"127.0.0.1:{port} cannot be reached: Connection refused" in refused(url, message).message
    with mail_server(greeting=f"554 go away {PASSWORD}") as post:
        assert (
            "refused the mail (554)" in refused(f"smtp://me:{QUOTED}@127.0.0.1:{post.port}", message).message
        )


@pytest.mark.parametrize(
    "url", ["canary", "http://canary@x", "smtp://", "smtp://me:canary/x@host:25", "smtp://[canary"]
)
def test_an_address_that_is_none(url: str, message: Message) -> None:
    refused(url, message)
