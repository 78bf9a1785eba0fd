"""``fieldValidation=Strict``: unknown fields are refused.

Belongs here: asking the published schemas. Does not belong here: types and values (``decode``, ``checks``).
Without ``Strict`` an unknown field is kept, where a real server drops it with a warning.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

from tests.launch.kube.answers import undecodable
from tests.launch.kube.kinds import Kind, Obj

SCHEMAS = "1.36"
_UNKNOWN = re.compile(r"'([^']+)'(?=[^()]* (?:was|were) unexpected\))")


def load() -> Any:
    """The validator; its first import takes a quarter of a second."""
    return importlib.import_module("kubernetes_validate")


def check(kind: Kind, body: Any) -> None:
    """Raises ``ApiError`` 400 naming the unknown fields of the first place that has any."""
    if not isinstance(body, dict):
        return
    validator = load()
    obj: Obj = {**body, "apiVersion": kind.api_version, "kind": kind.name}
    try:
        validator.validate(obj, SCHEMAS, strict=True)
    except validator.ValidationError as error:
        if not error.message.startswith("Additional properties"):
            return  # a type or a value: the decoder's business
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.path)
        fields = [f"{place}.{name}".lstrip(".") for name in _UNKNOWN.findall(error.message)]
        listed = ", ".join(f'unknown field "{field}"' for field in fields)
        raise undecodable(kind, f"strict decoding error: {listed}") from error
