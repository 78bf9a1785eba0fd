"""Label and field selectors.

Belongs here: their text forms, matching. Does not belong here: lists and watches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.launch.kube.answers import bad_request
from tests.launch.kube.kinds import Kind, Obj

Test = Callable[[Obj], bool]

_SET = re.compile(r"^\s*([^\s!=,()]+)\s+(in|notin)\s+\(([^()]*)\)\s*$")
_EQUAL = re.compile(r"^\s*([^\s!=,()]+)\s*(==|!=|=)\s*([^\s!=,()]*)\s*$")
_EXISTS = re.compile(r"^\s*(!?)\s*([^\s!=,()]+)\s*$")
_FIELDS = {
    "pods": {
        "status.phase",
        "spec.nodeName",
        "spec.restartPolicy",
        "status.podIP",
        "spec.serviceAccountName",
    },
    "jobs": {"status.successful"},
    "nodes": {"spec.unschedulable"},
    "namespaces": {"status.phase"},
    "events": {
        *("type", "reason", "source", "reportingComponent"),
        *(f"involvedObject.{f}" for f in ("name", "namespace", "kind", "uid", "apiVersion", "fieldPath")),
    },
    "secrets": {"type"},
}


def dig(obj: Any, path: str) -> Any:
    """The value at a dotted path, ``None`` where it ends."""
    for part in path.split("."):
        if not isinstance(obj, Mapping):
            return None
        obj = obj.get(part)
    return obj


def _requirement(text: str) -> Callable[[Mapping[str, str]], bool]:
    if found := _SET.match(text):
        key, operator = found[1], found[2]
        values = {value.strip() for value in found[3].split(",")}
        if operator == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if found := _EQUAL.match(text):
        key, operator, value = found[1], found[2], found[3]
        if operator == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if found := _EXISTS.match(text):
        absent, key = bool(found[1]), found[2]
        return lambda labels: (key in labels) is not absent
    words = text.split()
    shown = words[1] if len(words) > 1 else text
    raise bad_request(f"unable to parse requirement: found '{shown}', expected: in, notin, =, ==, !=, gt, lt")


def label_test(text: str | None) -> Test:
    """Raises ``ApiError`` 400 for a text that is no selector."""
    parts = [part for part in re.split(r",(?![^(]*\))", text or "") if part.strip()]
    tests = [_requirement(part) for part in parts]
    return lambda obj: all(test(obj["metadata"].get("labels") or {}) for test in tests)


def field_test(kind: Kind, text: str | None) -> Test:
    """Raises ``ApiError`` 400 for a field that this kind cannot be selected by."""
    known = {"metadata.name", "metadata.namespace"} | _FIELDS.get(kind.plural, set())
    wanted: list[tuple[str, bool, str]] = []
    for part in (text or "").split(","):
        if not part.strip():
            continue
        found = _EQUAL.match(part)
        if found is None:
            raise bad_request(f"invalid field selector: {part!r}; can't understand it")
        if found[1] not in known:
            raise bad_request(f'field label "{found[1]}" not supported for {kind.name}')
        wanted.append((found[1], found[2] != "!=", found[3]))
    return lambda obj: all((str(dig(obj, path) or "") == value) is same for path, same, value in wanted)


def matches_labels(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """A ``LabelSelector`` object; an empty one matches nothing here, since no controller may own everything."""
    if not selector or not any(selector.values()):
        return False
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(matches_expression(rule, labels) for rule in selector.get("matchExpressions") or ())


def matches_expression(rule: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """One requirement of a label selector or of node affinity."""
    value, values = labels.get(rule["key"]), list(rule.get("values") or ())
    match rule["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return value is not None and int(value) > int(values[0])
        case "Lt":
            return value is not None and int(value) < int(values[0])
    raise bad_request(f"unknown operator {rule['operator']!r}")
