"""A message by mail, through the SMTP server of the settings.

Belongs here: the mail, the session, and errors that name host and receivers but no password. Does not belong here:
wording (``message``).
"""

from __future__ import annotations

import contextlib
import ipaddress
import smtplib
import socket
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from urllib.parse import unquote, urlsplit

from accelbench_assets.notify.message import Message, NotifyError

TIMEOUT_S = 10.0
PORTS = {"smtp": 587, "smtps": 465}
_HINT = "Check the settings notify.smtp_url, mail_from and mail_to."


def send_mail(
    url: str, sender: str, receivers: Sequence[str], message: Message, *, timeout_s: float = TIMEOUT_S
) -> None:
    """Send *message* through *url*: ``smtp://`` (STARTTLS where it is offered) or ``smtps://``.

    Certificates are verified. A password is sent only over TLS, except to this machine. Each step of the session takes
    at most *timeout_s* seconds. Raises ``NotifyError``, also when only some receivers were refused.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or parts.scheme not in PORTS:
        raise NotifyError(
            "The mail server's URL cannot be read.",
            hint="Write notify.smtp_url as smtp://USER:PASSWORD@HOST:PORT or smtps://…, special characters escaped.",
        )
    address = (host, port or PORTS[parts.scheme])
    where = f"{address[0]}:{address[1]}"
    login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    try:
        mail = _mail(sender, receivers, message)
        with _session(parts.scheme, address, timeout_s) as session:
            secure = parts.scheme == "smtps" or _start_tls(session)
            if login:
                if not secure and not _is_here(host):
                    raise NotifyError(
                        f"The mail server {where} offers no TLS, and the password would be read by others.",
                        hint="Use smtps:// or a server with STARTTLS.",
                    )
                session.login(*login)
            refused = session.send_message(mail, from_addr=sender, to_addrs=list(receivers))
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise NotifyError(f"The mail server {where} {_problem(error, timeout_s)}.", hint=_HINT) from None
    if refused:
        raise NotifyError(f"The mail server {where} refused {', '.join(sorted(refused))}.", hint=_HINT)


def _mail(sender: str, receivers: Sequence[str], message: Message) -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"] = message.subject
    mail["From"], mail["To"] = sender, ", ".join(receivers)
    mail["Date"] = formatdate()
    # Without a domain the library asks the name service for one, which may take its time.
    mail["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2].rstrip("> ") or "accelbench.invalid")
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(message.text + "\n")
    return mail


def _session(scheme: str, address: tuple[str, int], timeout_s: float) -> smtplib.SMTP:
    name = socket.gethostname()  # given, or the library asks the name service
    if scheme == "smtps":
        context = ssl.create_default_context()
        return smtplib.SMTP_SSL(*address, local_hostname=name, timeout=timeout_s, context=context)
    return smtplib.SMTP(*address, local_hostname=name, timeout=timeout_s)


def _start_tls(session: smtplib.SMTP) -> bool:
    session.ehlo_or_helo_if_needed()
    if not session.has_extn("starttls"):
        return False
    session.starttls(context=ssl.create_default_context())
    session.ehlo()
    return True


def _is_here(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _problem(error: Exception, timeout_s: float) -> str:
    """Our own words: a server may quote what it was sent."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return f"refused {', '.join(sorted(error.recipients))}"
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return f"refused the login ({error.smtp_code})"
    if isinstance(error, smtplib.SMTPServerDisconnected):
        late = isinstance(error.__context__, TimeoutError)
        return f"did not answer within {timeout_s:g} s" if late else "broke the connection off"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"refused the mail ({error.smtp_code})"
    if isinstance(error, TimeoutError):
        return f"did not answer within {timeout_s:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"has a certificate that cannot be verified: {error.verify_message}"
    if isinstance(error, OSError) and not isinstance(error, smtplib.SMTPException):
        return f"cannot be reached: {error.strerror or type(error).__name__}"
    return f"cannot take this mail ({type(error).__name__})"
