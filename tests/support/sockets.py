"""What small servers of tests share."""

from __future__ import annotations

import socket
from collections.abc import Iterator


def accepted(listener: socket.socket) -> Iterator[socket.socket]:
    """Connections until *listener* is closed."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        yield connection
