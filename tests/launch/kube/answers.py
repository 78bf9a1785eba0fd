"""Refusals, as the API words them.

Belongs here: the error type and its ``Status`` body, one function per sort of refusal. Does not belong here: when
a request is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.launch.kube.kinds import Kind

USER = "accelbench-test"


class ApiError(Exception):
    """A refusal: HTTP code, machine-readable reason (``None`` for plain 500s), text, details."""

    def __init__(
        self, code: int, reason: str | None, message: str, *, headers: Mapping[str, str] | None = None,
        **details: Any,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message
        self.headers = dict(headers or {})
        self.details = details

    def body(self) -> dict[str, Any]:
        status: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        status["message"] = self.message
        if self.reason:
            status["reason"] = self.reason
        if self.details:
            status["details"] = self.details
        return {**status, "code": self.code}


def _about(kind: Kind, name: str) -> dict[str, Any]:
    about = {"name": name, "group": kind.group, "kind": kind.plural}
    return {key: value for key, value in about.items() if value}


def not_found(kind: Kind, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{kind.resource} "{name}" not found', **_about(kind, name))


def no_such_resource(what: str = "") -> ApiError:
    text = "the server could not find the requested resource"
    return ApiError(404, "NotFound", text + (f" ( {what})" if what else ""))


def already_exists(kind: Kind, name: str, *, deleting: bool = False) -> ApiError:
    prefix = "object is being deleted: " if deleting else ""
    text = f'{prefix}{kind.resource} "{name}" already exists'
    return ApiError(409, "AlreadyExists", text, **_about(kind, name))


def conflict(kind: Kind, name: str, why: str = "") -> ApiError:
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    text = f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}'
    return ApiError(409, "Conflict", text, **_about(kind, name))


def method_not_allowed() -> ApiError:
    text = "the server does not allow this method on the requested resource"
    return ApiError(405, "MethodNotAllowed", text)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def not_emulated(what: str) -> ApiError:
    """Not a real answer: the test asks for something that this server would only pretend to do."""
    return ApiError(400, "BadRequest", f"{what} is not emulated by this test server")


def undecodable(kind: Kind, why: str) -> ApiError:
    return bad_request(f'{kind.name} in version "{kind.version}" cannot be handled as a {kind.name}: {why}')


def invalid(kind: Kind, name: str, field: str, why: str) -> ApiError:
    """*why* begins with ``Invalid value: …``, ``Required value …``, ``Not found: …`` and so on."""
    text = f'{kind.full_name} "{name}" is invalid: {field}: {why}'
    reasons = {"Required value": "FieldValueRequired", "Not found": "FieldValueNotFound"}
    reasons |= {"Duplicate value": "FieldValueDuplicate", "Unsupported value": "FieldValueNotSupported"}
    reasons |= {"Forbidden": "FieldValueForbidden", "Too long": "FieldValueTooLong"}
    cause = {
        "reason": reasons.get(why.partition(":")[0], "FieldValueInvalid"),
        "message": why,
        "field": field,
    }
    about: dict[str, Any] = {"name": name, "group": kind.group, "kind": kind.name, "causes": [cause]}
    return ApiError(422, "Invalid", text, **{k: v for k, v in about.items() if v})


def forbidden(kind: Kind, name: str, why: str) -> ApiError:
    return ApiError(403, "Forbidden", f'{kind.resource} "{name}" is forbidden: {why}', **_about(kind, name))


def denied(verb: str, kind: Kind, name: str, namespace: str | None, subresource: str = "") -> ApiError:
    """What role-based access control answers."""
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
    about = f'{kind.resource} "{name}"' if name else kind.resource
    text = (
        f'{about} is forbidden: User "{USER}" cannot {verb} resource "{resource}" '
        f'in API group "{kind.group}" {where}'
    )
    return ApiError(403, "Forbidden", text, **_about(kind, name))


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def expired(asked: int, oldest: int) -> ApiError:
    return ApiError(410, "Expired", f"too old resource version: {asked} ({oldest})")


def too_many_requests(retry_after_s: int = 1) -> ApiError:
    text = "the server has received too many requests and has asked us to try again later"
    headers = {"Retry-After": str(retry_after_s)}
    return ApiError(429, "TooManyRequests", text, headers=headers, retryAfterSeconds=retry_after_s)


def broken(code: int) -> ApiError:
    """A fault of the server itself; 500 to 504."""
    reason, text = {
        500: ("InternalError", "Internal error occurred: etcdserver: request timed out"),
        502: (None, "Bad Gateway"),
        503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
        504: ("Timeout", "Timeout: request did not complete within the allotted timeout"),
    }.get(code, ("InternalError", f"Internal error occurred: code {code}"))
    return ApiError(code, reason, text)


def success(message: str = "", code: int | None = None, **details: Any) -> dict[str, Any]:
    """A ``Status`` that says yes."""
    status: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    if message:
        status["message"] = message
    if details:
        status["details"] = details
    return status if code is None else {**status, "code": code}
