"""A real web server and a real mail server on loopback, which answer as they are told and keep what they were sent."""

from __future__ import annotations

import base64
import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Hook:
    """A webhook's server. *answers* are statuses in order, the last one for good; a text status is a place to go to,
    0 breaks the connection off, -1 keeps the caller waiting, -2 sends one byte at a time.
    """

    url: str = ""
    answers: list[int | str] = field(default_factory=lambda: [200])
    requests: list[dict[str, Any]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def answer(self) -> int | str:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(request["body"]) for request in self.requests if request["method"] == "POST"]


@contextmanager
def hook_server() -> Iterator[Hook]:
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            self.keep(body)

        def do_GET(self) -> None:
            self.keep(b"")

        def keep(self, body: bytes) -> None:
            headers = dict(self.headers.items())
            hook.requests.append(
                {"method": self.command, "path": self.path, "headers": headers, "body": body}
            )
            answer = hook.answer()
            if answer == 0:
                self.connection.close()
                return
            if answer == -1:
                hook.over.wait(600)
                return
            if answer == -2:
                for _ in range(6000):
                    self.wfile.write(b"H")
                    if hook.over.wait(0.1):
                        return
                return
            self.send_response(302 if isinstance(answer, str) else answer)
            if isinstance(answer, str):
                self.send_header("Location", answer)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        hook.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield hook
        finally:
            hook.over.set()
            server.shutdown()


@dataclass
class Post:
    """A mail server. *login* is who may log in, *refuse* are receivers it does not know, *hang* is a verb it never
    answers, *tls* holds its certificate and key (STARTTLS), *at_once* means TLS from the first byte.
    """

    port: int = 0
    login: tuple[str, str] | None = None
    refuse: tuple[str, ...] = ()
    hang: str = ""
    greeting: str = "220 ready"
    tls: Path | None = None
    at_once: bool = False
    mails: list[EmailMessage] = field(default_factory=list)
    receivers: list[list[str]] = field(default_factory=list)
    verbs: list[str] = field(default_factory=list)
    secure: list[bool] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)


class _Session(socketserver.StreamRequestHandler):
    post: Post

    def say(self, line: str) -> None:
        self.wfile.write(line.encode() + b"\r\n")

    def secure(self) -> None:
        assert self.post.tls is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.post.tls)
        self.connection = context.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)  # type: ignore[assignment]

    def handle(self) -> None:
        try:
            if self.post.at_once:
                self.secure()
            self.say(self.post.greeting)
            while line := self.rfile.readline():
                if not self.obey(line.decode().strip()):
                    return
        except (OSError, ValueError):
            return

    def obey(self, line: str) -> bool:
        post, verb = self.post, line.split(" ", 1)[0].upper()
        post.verbs.append(verb)
        if verb == post.hang:
            post.over.wait(600)
            return False
        if verb == "EHLO":
            post.receivers.append([])
            offered = ["AUTH PLAIN"] if post.login else []
            offered += ["STARTTLS"] if post.tls and not isinstance(self.connection, ssl.SSLSocket) else []
            for extension in ("here", *offered):
                self.say(f"250-{extension}")
            self.say("250 8BITMIME")
        elif verb == "STARTTLS":
            self.say("220 go on")
            self.secure()
        elif verb == "AUTH":
            given = base64.b64decode(line.split()[2]).decode().split("\0")[1:]
            right = post.login is not None and tuple(given) == post.login
            self.say("235 welcome" if right else f"535 no, {given} is wrong")
        elif verb == "RCPT":
            address = line.split("<", 1)[1].rstrip(">")
            if address in post.refuse:
                self.say(f"550 no such user {address}")
            else:
                post.receivers[-1].append(address)
                self.say("250 ok")
        elif verb == "DATA":
            self.say("354 go on")
            lines = []
            while (part := self.rfile.readline()) not in (b".\r\n", b""):
                lines.append(part.removeprefix(b".") if part.startswith(b"..") else part)
            post.mails.append(message_from_bytes(b"".join(lines), policy=policy.default))  # type: ignore[arg-type]
            post.secure.append(isinstance(self.connection, ssl.SSLSocket))
            self.say("250 taken")
        else:
            self.say("221 bye" if verb == "QUIT" else "250 ok")
        return verb != "QUIT"


@contextmanager
def mail_server(**how: Any) -> Iterator[Post]:
    post = Post(**how)
    handler = type("Session", (_Session,), {"post": post})

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = allow_reuse_address = True

    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        post.port = server.server_address[1]
        try:
            yield post
        finally:
            post.over.set()
            server.shutdown()
