"""The serving side of a cell: what a server was told that changes the meaning of a result.

Belongs here: ``Deployment``, its validation, label, canonical JSON and digest; ``CellError`` and the checks
it shares with ``cell``. Import these from ``partitions.cell``.
Does not belong here: how an engine is told (``engines``), the resources a pod asks for (``launch``).

Canonical JSON leaves out every field that has its default value: a field added later with a default changes
no digest and no ``cell_id`` ever given out. For the same reason no default may ever change.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

DTYPES = ("auto", "bf16", "fp16", "fp32")

_WORD = re.compile(r"[a-z0-9][a-z0-9_]*")
_ROUTER = re.compile(r"[a-z0-9][a-z0-9_-]*")
_ARG_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_SECRET_ARG = re.compile(r"(?i)api[-_]?key|passw|secret|(^|hf|auth|access|bearer)[-_]?token$")


class CellError(ValueError):
    """A cell, key or deployment that cannot be; the text names the field. Its parts are ``field`` and ``problem``."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field, self.problem = field, problem


def fail(field: str, problem: str) -> NoReturn:
    """Raise ``CellError`` for *field*."""
    raise CellError(field, problem)


def match(field: str, value: object, pattern: re.Pattern[str], says: str) -> None:
    """Raise ``CellError`` unless *value* is a text that *pattern* matches whole; *says* names the form."""
    if not isinstance(value, str) or not pattern.fullmatch(value) or "..." in value:
        fail(field, f"{value!r} is not {says}")


def canonical_text(document: Mapping[str, Any]) -> str:
    """JSON with sorted keys, no spaces, ASCII only: equal documents give equal text."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def short_hash(text: str, length: int) -> str:
    """The first *length* hex digits of the SHA-256 of *text*."""
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:length]


def known_fields(document: object, cls: type[Any], what: str) -> dict[str, Any]:
    """*document* as a dict whose keys are all fields of *cls*; raises ``CellError`` naming the first that is
    not.
    """
    if not isinstance(document, Mapping):
        fail(what, f"expected an object, got {type(document).__name__}")
    known = {f.name for f in dataclasses.fields(cls)}
    for name in document:
        if name not in known:
            fail(str(name), f"is not a field of a {what}")
    return dict(document)


@dataclass(frozen=True, slots=True)
class Deployment:
    """What changes the meaning of a result on the serving side.

    ``tp pp dp ep replicas`` are counts >= 1; ``dtype`` is one of ``DTYPES``; ``quantization`` and
    ``kv_cache_dtype`` are words (``none``, ``fp8``, ``awq``, ``q4_1`` …); ``max_model_len`` in tokens, null =
    the engine's default; ``prefix_caching`` null = the engine's default; ``args`` = every other serving
    argument as (name without leading dashes, value), kept sorted by name. Raises ``CellError`` naming the
    field.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    replicas: int = 1
    dtype: str = "auto"
    quantization: str = "none"
    kv_cache_dtype: str = "auto"
    max_model_len: int | None = None
    prefix_caching: bool | None = None
    router: str = "none"
    args: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for name in ("tp", "pp", "dp", "ep", "replicas", "max_model_len"):
            value = getattr(self, name)
            if name == "max_model_len" and value is None:
                continue
            if type(value) is not int or value < 1:
                fail(name, f"{value!r} is not a whole number >= 1")
        if self.dtype not in DTYPES:
            fail("dtype", f"{self.dtype!r} is none of {', '.join(DTYPES)}")
        for name in ("quantization", "kv_cache_dtype"):
            match(name, getattr(self, name), _WORD, "a lower-case word such as none, fp8 or q4_1")
        if self.prefix_caching is not None and type(self.prefix_caching) is not bool:
            fail("prefix_caching", f"{self.prefix_caching!r} is not true, false or null")
        match("router", self.router, _ROUTER, "a lower-case word such as none or round-robin")
        object.__setattr__(self, "args", _checked_args(self.args))

    @property
    def label(self) -> str:
        """The readable part: ``tp1-bf16``, ``tp1-q4_1``, ``tp8-pp2-r4-fp8``; counts of 1 other than tp are
        left out.
        """
        counts = (("pp", self.pp), ("dp", self.dp), ("ep", self.ep), ("r", self.replicas))
        width = self.quantization if self.quantization != "none" else self.dtype
        return "-".join([f"tp{self.tp}", *(f"{n}{v}" for n, v in counts if v > 1), width])

    @property
    def digest(self) -> str:
        """8 hex of the SHA-256 of the canonical JSON."""
        return short_hash(self.canonical_json(), 8)

    def canonical(self) -> dict[str, Any]:
        """The fields that differ from their default, ready for JSON."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        return {k: v for k, v in self.to_dict().items() if (tuple(v) if k == "args" else v) != defaults[k]}

    def canonical_json(self) -> str:
        """Canonical JSON (sorted keys, no spaces, ASCII) of :meth:`canonical`."""
        return canonical_text(self.canonical())

    def to_dict(self) -> dict[str, Any]:
        """Every field, ``args`` as a list of [name, value] lists."""
        document = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        document["args"] = [list(pair) for pair in self.args]
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Deployment:
        """Inverse of :meth:`to_dict`; missing fields take their default, unknown ones raise ``CellError``.

        ``args`` may also be a mapping of name to value.
        """
        fields = known_fields(document, cls, "deployment")
        if isinstance(fields.get("args"), Mapping):
            fields["args"] = tuple(fields["args"].items())
        return cls(**fields)


def _checked_args(args: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(args, (tuple, list)):
        fail("args", f"expected (name, value) pairs, got {type(args).__name__}")
    pairs: dict[str, str] = {}
    for pair in args:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(isinstance(x, str) for x in pair):
            fail("args", f"{pair!r} is not a pair of texts (name, value)")
        name, value = pair
        if not _ARG_NAME.fullmatch(name):
            fail("args", f"{name!r} is not an argument name (write it without leading dashes)")
        if _SECRET_ARG.search(name):
            fail("args", f"{name!r} would hold a secret; pass it to the engine by an environment variable")
        if not value.isprintable():
            fail("args", f"the value of {name!r} holds a control character")
        if name in pairs:
            fail("args", f"{name!r} is given twice")
        pairs[name] = value
    return tuple(sorted(pairs.items()))
