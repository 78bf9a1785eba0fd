"""What a run needs before its first request: its secrets, what must not be repeated of them, its descriptors.

Belongs here: reading the environment and this process's limits. Does not belong here: the run (``run``).
"""

from __future__ import annotations

import os
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from loadgen.client import Client
from loadgen.clock import reading
from loadgen.plan import Plan, PlanError

_CEILING_MAX = 10_000
_SPARE_DESCRIPTORS = 64


def anchor() -> dict[str, int]:
    """The same moment on both clocks."""
    mono_ns, offset_ns = reading(time.time_ns, time.perf_counter_ns)
    return {"wall_ns": mono_ns + offset_ns, "mono_ns": mono_ns}


def open_client(plan: Plan) -> tuple[Client, Callable[[str], str]]:
    """The client of *plan*, and a function that masks its secrets in a server's own words. Raises ``PlanError``."""
    secret, proxy = _api_key(plan), _proxy(plan)
    parts = urlsplit(proxy or "")
    redact = redactor([secret, parts.password, unquote(parts.password or ""), *plan.headers.values()])
    client = Client(
        plan.replicas,
        api=plan.api,
        headers={**plan.headers, **({"Authorization": f"Bearer {secret}"} if secret else {})},
        request_timeout_s=plan.request_timeout_s,
        idle_timeout_s=plan.idle_timeout_s,
        fresh=plan.fresh_connections,
        proxy=proxy,
        http_version=plan.http_version,
    )
    return client, redact


def _api_key(plan: Plan) -> str | None:
    if plan.api_key_env is None:
        return None
    value = os.environ.get(plan.api_key_env, "").strip()
    if not value:
        raise PlanError(f"api_key_env: the environment variable {plan.api_key_env} is not set")
    if not value.isascii() or not value.isprintable():
        raise PlanError(f"api_key_env: the value of {plan.api_key_env} cannot be sent in a header")
    return value


def _proxy(plan: Plan) -> str | None:
    if plan.proxy_env is None:
        return plan.proxy
    value = os.environ.get(plan.proxy_env, "").strip()
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        what = "holds no URL of the form http://host:port" if value else "is not set"
        raise PlanError(f"proxy_env: the environment variable {plan.proxy_env} {what}")
    return value


def redactor(secrets: list[str | None]) -> Callable[[str], str]:
    """A function that masks the given secrets and bearer tokens in a server's own words."""
    known = sorted({secret for secret in secrets if secret and len(secret) >= 6}, key=len, reverse=True)

    def redact(text: str) -> str:
        for secret in known:
            text = text.replace(secret, "****")
        return re.sub(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", r"\1 ****", text)

    return redact


def in_flight_ceiling() -> int:
    """As many connections as this process may have, after asking for all it is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _CEILING_MAX + _SPARE_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(_CEILING_MAX, soft - _SPARE_DESCRIPTORS) if soft != resource.RLIM_INFINITY else _CEILING_MAX


def local_folder(out: str, folder: str) -> Path | None:
    """Where raw answers wait on disk: beside the parts, or (``None``) in a temporary folder when those go to S3."""
    parts = urlsplit(out)
    if parts.scheme == "s3":
        return None
    return (Path(unquote(parts.path)) if parts.scheme else Path(out)) / folder
