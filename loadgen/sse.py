"""Server-sent events out of body bytes, after the clock.

Belongs here: line ends (LF, CRLF, CR), comments, multi-line data, an event that the stream's end cuts off.
Does not belong here: JSON and tokens (``decode``). Lines are split on bytes, before any UTF-8 decoding, so
a character cut by a read and a U+2028 inside JSON are no line ends.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence


def events(body: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Yield ``(read_index, data)`` for each event with data.

    *body* is what ``Framer(collect=True)`` gives. The read index is that of the read which brought the last
    byte of the event's data: an event is there once its data is, whenever its blank line follows. The usual
    piece, whole events of one line each, costs little more than a look at it; the others are joined up to the
    next certain end of an event.
    """
    rest: list[tuple[int, bytes]] = []
    certain, at_start = True, True
    for read, piece in body:
        if not rest and piece.endswith(b"\n\n") and piece.startswith(b"data: ") and b"\r" not in piece:
            at_start = False
            if piece.find(b"\n") == len(piece) - 2:
                yield read, piece[6:-2]
                continue
            for event in piece[:-2].split(b"\n\n"):
                if event.startswith(b"data: ") and b"\n" not in event:
                    yield read, event[6:]
                else:
                    yield from _events([(read, event + b"\n\n")], at_start)
            continue
        rest.append((read, piece))
        certain = certain and b"\r" not in piece
        if certain and piece.endswith(b"\n\n"):
            yield from _events(rest, at_start)
            rest, at_start = [], False
    yield from _events(rest, at_start)


def _events(body: Sequence[tuple[int, bytes]], at_start: bool) -> Iterator[tuple[int, bytes]]:
    """Line by line; *at_start* of the stream there may be a byte order mark."""
    ends: list[int] = []
    reads: list[int] = []
    total = 0
    for read, piece in body:
        total += len(piece)
        ends.append(total)
        reads.append(read)
    text = b"".join(piece for _, piece in body)
    if at_start and text.startswith(b"\xef\xbb\xbf"):
        text = b"\n\n\n" + text[3:]  # a byte order mark is not part of the first field's name
    data: list[bytes] = []
    last = 0
    at = 0
    while at < total:
        end, after = _line_end(text, at, total)
        line = text[at:end]
        if not line:
            if data:
                yield reads[bisect_left(ends, last)], b"\n".join(data)
                data = []
        elif line.startswith(b"data:"):
            data.append(line[6:] if line[5:6] == b" " else line[5:])
            last = end
        elif line == b"data":
            data.append(b"")
            last = end
        at = after
    if data:
        yield reads[bisect_left(ends, last)], b"\n".join(data)


def _line_end(text: bytes, at: int, total: int) -> tuple[int, int]:
    """Where the line starting at *at* ends, and where the next one starts."""
    feed = text.find(b"\n", at)
    if feed < 0:
        feed = total
    carriage = text.find(b"\r", at, feed)
    if carriage < 0:
        return feed, feed + 1
    return carriage, carriage + 2 if text[carriage + 1 : carriage + 2] == b"\n" else carriage + 1
