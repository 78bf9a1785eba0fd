"""The user's own requests, one JSON object a line.

Belongs here: the three shapes, checking every line, reading one again when it is its turn. Does not belong
here: order and openings (``contents``).

Shapes: ShareGPT ``{"conversations": [{"from": "human", "value": …}, …]}`` (single requests use the first
human turn), OpenAI ``{"messages": [{"role": …, "content": …}, …]}`` (up to the last user message), and plain
``{"prompt": …}`` or ``{"text": …}``. Any may have ``output_tokens``. E-mail addresses and telephone numbers
are masked before anything is sent.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadgen.datasets import Faults
from loadgen.plan import PlanError

_BYTES_PER_TOKEN = 4  # only to leave out rows far outside a profile's bounds
_ROLES = ("system", "developer", "user", "assistant", "tool")
_HUMAN, _MODEL = ("human", "user"), ("gpt", "chatgpt", "assistant", "bing", "bard", "model")
_MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_PHONE = re.compile(r"(?<!\w)\+?\(?\d{2,4}\)?[ .-]\d{3}[ .-]?\d{2,4}(?:[ .-]\d{2,4})?(?!\w)")


@dataclass(slots=True)
class RequestFile:
    """A checked file. ``left_out`` counts rows outside the profile's length bounds; ``sha256`` is the whole
    file's."""

    path: Path
    sha256: str
    left_out: int
    _data: mmap.mmap = field(repr=False)
    _starts: array[int] = field(repr=False)

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, row: int) -> tuple[list[dict[str, Any]], int | None]:
        """Messages of a single request and the row's ``output_tokens``."""
        messages, output_tokens, kind = self._row(row)
        if kind == "conversations":
            messages = next([m] for m in messages if m["role"] == "user")
        else:
            messages = messages[: 1 + max(k for k, m in enumerate(messages) if m["role"] == "user")]
        return messages, output_tokens

    def turns(self, row: int) -> list[str]:
        """What the user says, turn by turn."""
        return [message["content"] for message in self._row(row)[0] if message["role"] == "user"]

    def _row(self, row: int) -> tuple[list[dict[str, Any]], int | None, str]:
        import orjson

        start = self._starts[row]
        end = self._data.find(b"\n", start)
        document = orjson.loads(self._data[start : end if end >= 0 else len(self._data)])
        messages, output_tokens, kind = parse(document)
        return [{**m, "content": mask(m["content"])} for m in messages], output_tokens, kind


def mask(text: str) -> str:
    """*text* without e-mail addresses and telephone numbers."""
    return _PHONE.sub("[number]", _MAIL.sub("[address]", text))


def parse(document: Any) -> tuple[list[dict[str, Any]], int | None, str]:
    """(messages, output_tokens, shape) of a row; raises ``ValueError`` naming the field."""
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")
    shapes = [name for name in ("conversations", "messages", "prompt", "text") if name in document]
    if len(shapes) != 1:
        found = " and ".join(shapes) or "none"
        raise ValueError(f"exactly one of conversations, messages, prompt and text is needed; found {found}")
    kind = shapes[0]
    value = document[kind]
    if kind in ("prompt", "text"):
        messages = [{"role": "user", "content": _text(value, kind)}]
    else:
        if not isinstance(value, list) or not value:
            raise ValueError(f"{kind}: a list of turns is needed")
        messages = [_turn(item, kind, k) for k, item in enumerate(value)]
        if all(message["role"] != "user" for message in messages):
            raise ValueError(f"{kind}: nobody asks anything in it")
    wanted = document.get("output_tokens")
    if wanted is not None and (type(wanted) is not int or not 1 <= wanted <= 1_000_000):
        raise ValueError(f"output_tokens: {wanted!r} is not a whole number from 1 to 1000000")
    return messages, wanted, kind


def _turn(item: Any, kind: str, k: int) -> dict[str, Any]:
    who, what = ("from", "value") if kind == "conversations" else ("role", "content")
    if not isinstance(item, dict):
        raise ValueError(f"{kind}[{k}]: it is not an object")
    role = item.get(who)
    if kind == "conversations":
        role = "user" if role in _HUMAN else "assistant" if role in _MODEL else role
    if role not in _ROLES:
        raise ValueError(f"{kind}[{k}].{who}: {str(item.get(who))[:40]!r} is unknown")
    return {"role": role, "content": _text(item.get(what), f"{kind}[{k}].{what}")}


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name}: a text that is not empty is needed")
    return value


def lines(data: mmap.mmap) -> Iterator[tuple[int, int, bytes]]:
    """(line number, start, bytes) of each line that is not blank."""
    start, number = 0, 0
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        number += 1
        line = data[start:end]
        if line.strip():
            yield number, start, line
        start = end + 1


def mapped(path: Path) -> mmap.mmap:
    """The file in the page cache; raises ``PlanError`` when it is empty."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise PlanError(f"dataset {path}: {(error.strerror or str(error)).lower()}") from None
    with file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise PlanError(f"dataset {path}: the file is empty") from None


def read(path: Path, low: int, high: int) -> RequestFile:
    """Check every line; raises ``PlanError`` with the first ten faults by line and field, and their number.

    Memory: eight bytes a row. Rows whose prompt is estimated (bytes / 4) outside *low* to *high* tokens are
    left out and counted.
    """
    import orjson

    data = mapped(path)
    if data[:64].lstrip()[:1] == b"[":
        raise PlanError(
            f"dataset {path}: it is one JSON array; one object a line is needed (jq -c '.[]' {path.name} > new.jsonl)"
        )
    faults, starts, left_out, digest = Faults(path), array("Q"), 0, hashlib.sha256()
    for number, start, line in lines(data):
        digest.update(line + b"\n")
        try:
            messages, _, kind = parse(orjson.loads(line))
        except orjson.JSONDecodeError as error:
            faults.add(number, f"not JSON: {error}")
            continue
        except ValueError as error:
            faults.add(number, str(error))
            continue
        if kind == "conversations":
            messages = next([m] for m in messages if m["role"] == "user")
        size = sum(len(m["content"].encode()) for m in messages) / _BYTES_PER_TOKEN
        if low <= size <= high:
            starts.append(start)
        else:
            left_out += 1
    faults.check()
    if not starts:
        raise PlanError(f"dataset {path}: no row has a prompt of {low} to {high} tokens")
    return RequestFile(path, digest.hexdigest(), left_out, data, starts)
