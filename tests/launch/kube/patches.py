"""The patch formats that clients send.

Belongs here: merge, strategic merge, JSON patch. Does not belong here: server-side apply (not emulated).
"""

from __future__ import annotations

import copy
from typing import Any

from tests.launch.kube.answers import ApiError, not_emulated

# Lists of the strategic merge, by field, and the member that tells their items apart.
_KEYS = {
    **dict.fromkeys(("containers", "initContainers", "env", "volumes", "imagePullSecrets"), "name"),
    "volumeMounts": "mountPath",
    "ownerReferences": "uid",
    "conditions": "type",
    "addresses": "type",
    "tolerations": None,
}
_REFUSED = "the server rejected our request due to an error in our request"


def apply_patch(content_type: str, old: Any, patch: Any) -> Any:
    """*old* is left as it is. Raises ``ApiError``: 415 for another type, 422 for a patch that does not fit."""
    match content_type:
        case "application/merge-patch+json":
            return _merge(old, patch)
        case "application/strategic-merge-patch+json":
            return _merge(old, patch, strategic=True)
        case "application/json-patch+json":
            return _json_patch(old, patch)
        case "application/apply-patch+yaml":
            raise not_emulated("server-side apply")
    raise ApiError(415, "UnsupportedMediaType", "415: Unsupported Media Type")


def _merge(old: Any, patch: Any, *, strategic: bool = False, field: str = "") -> Any:
    if isinstance(patch, dict):
        merged = dict(old) if isinstance(old, dict) else {}
        for key, value in patch.items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = _merge(merged.get(key), value, strategic=strategic, field=key)
        return merged
    key_field = _KEYS.get(field)
    if strategic and key_field and isinstance(patch, list) and isinstance(old, list):
        return _merge_items(old, patch, key_field)
    return copy.deepcopy(patch)


def _merge_items(old: list[Any], patch: list[Any], key: str) -> list[Any]:
    """Items are merged by *key*; new ones come first."""
    kept = {item.get(key): item for item in old}
    fresh: list[Any] = []
    for item in patch:
        if item.get("$patch") == "delete":
            kept.pop(item.get(key), None)
        elif item.get(key) in kept:
            kept[item[key]] = _merge(kept[item[key]], item, strategic=True)
        else:
            fresh.append(copy.deepcopy(item))
    return fresh + list(kept.values())


def _json_patch(old: Any, operations: Any) -> Any:
    result = copy.deepcopy(old)
    for operation in operations:
        try:
            _operate(result, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise ApiError(422, "Invalid", _REFUSED) from error
    return result


def _operate(target: Any, operation: dict[str, Any]) -> None:
    path = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    *way, last = path
    for part in way:
        target = target[int(part)] if isinstance(target, list) else target[part]
    name, key = operation["op"], int(last) if isinstance(target, list) and last != "-" else last
    if name == "test":
        if target[key] != operation["value"]:
            raise ValueError(operation["path"])
    elif name == "remove":
        del target[key]
    elif name == "add" and isinstance(target, list):
        target.insert(len(target) if key == "-" else key, operation["value"])
    elif name == "add" or (name == "replace" and (isinstance(target, list) or key in target)):
        target[key] = operation["value"]
    else:
        raise ValueError(name)
