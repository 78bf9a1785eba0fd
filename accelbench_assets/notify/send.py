"""A message through every channel that is set up, side by side; what became of it on each.

Belongs here: which channels there are, one time limit over all, errors as values. Does not belong here: how a channel
works (``webhook``, ``mail``). A channel that fails, hangs or breaks never hides another.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.notify.mail import send_mail
from accelbench_assets.notify.message import Message, NotifyError
from accelbench_assets.notify.webhook import post
from accelbench_assets.scrub import scrub
from accelbench_assets.settings_groups import NotifySettings

LIMIT_S = 40.0
"""Longest time for all channels together: a sensor's tick must have ended after a minute."""
SETTINGS_HINT = (
    "set notify.webhook_url (ACCELBENCH_NOTIFY__WEBHOOK_URL), or smtp_url, mail_from and mail_to of notify"
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a message on one channel (``webhook`` or ``mail``): *error* is ``None`` when it was taken."""

    channel: str
    error: str | None = None

    def __str__(self) -> str:
        return f"{self.channel}: {self.error}" if self.error else f"{self.channel}: sent"


def channels(settings: NotifySettings) -> tuple[str, ...]:
    """Names of the channels that are set up, completely or not."""
    named = {"webhook": settings.webhook_url, "mail": settings.smtp_url}
    return tuple(name for name, url in named.items() if url is not None)


def secrets_of(settings: NotifySettings) -> tuple[str, ...]:
    """The URLs and the parts of them that must not be shown."""
    found = []
    for secret in (settings.webhook_url, settings.smtp_url):
        if secret is None:
            continue
        url = secret.get_secret_value()
        found.append(url)
        try:
            parts = urlsplit(url)
        except ValueError:
            continue
        found += [parts.password or "", unquote(parts.password or ""), parts.query]
        found += [parts.path, parts.path.rsplit("/", 1)[-1]]
    return tuple(sorted({one for one in found if len(one) > 1}, key=len, reverse=True))


def deliver(message: Message, settings: NotifySettings, *, limit_s: float = LIMIT_S) -> list[Delivery]:
    """Send *message* through every channel; never raises for a channel. Takes at most *limit_s* seconds."""
    ways = {"webhook": lambda: _by_webhook(message, settings), "mail": lambda: _by_mail(message, settings)}
    secrets = secrets_of(settings)
    found: dict[str, Delivery] = {}
    threads = []
    for name in channels(settings):
        thread = threading.Thread(
            target=_attempt, args=(name, ways[name], secrets, found), name=f"notify-{name}", daemon=True
        )
        thread.start()
        threads.append(thread)
    end = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    late = f"was not done within {limit_s:g} s"
    return [found.get(name) or Delivery(name, late) for name in channels(settings)]


def _attempt(
    name: str, send: Callable[[], None], secrets: tuple[str, ...], found: dict[str, Delivery]
) -> None:
    try:
        send()
        found[name] = Delivery(name)
    except AccelBenchError as error:
        found[name] = Delivery(name, scrub(str(error), secrets))
    except Exception as error:  # of a library; its text may quote the URL
        found[name] = Delivery(name, f"failed with {type(error).__name__}")


def _by_webhook(message: Message, settings: NotifySettings) -> None:
    if settings.webhook_url is not None:
        post(settings.webhook_url.get_secret_value(), message)


def _by_mail(message: Message, settings: NotifySettings) -> None:
    for name in ("mail_from", "mail_to"):
        if not getattr(settings, name):
            raise NotifyError(f"notify.smtp_url is set and notify.{name} is not.")
    if settings.smtp_url is not None and settings.mail_from is not None:
        send_mail(settings.smtp_url.get_secret_value(), settings.mail_from, settings.mail_to, message)
