"""Keeps secrets out of everything that is kept or shown.

Belongs here: the one function that removes known and secret-looking values from text, URLs and environments.
Does not belong here: reading secrets (the place that uses one reads it from the environment at that moment).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit, urlunsplit

MASK = "****"
MIN_SECRET_LENGTH = 8
"""Shorter values are words ("ollama", "test"): masking each of their occurrences would garble what is kept."""

# "tokens" and "tokenizer" are this field's ordinary words (max-num-batched-tokens), "token" is a credential.
_SECRET_NAME = re.compile(
    r"(token(?!s|iz)|secret|passw|credential|authorization|cookie|pgpass|api_?key|access_?key"
    r"|(?<![a-z])(key|auth|sig|signature)(?![a-z]))",
    re.I,
)
# Hugging Face and OpenAI-style tokens, AWS key ids, bearer headers, user:password@ in URLs, key=value pairs.
_SECRET_TEXT = (
    # A signed URL is a credential: who has it may read.
    (
        re.compile(r"(?i)(https?://[^\s?\"'<>]+)\?[^\s\"'<>]*(?:signature|x-amz-|sig|token)=[^\s\"'<>]*"),
        rf"\1?{MASK}",
    ),
    (re.compile(r"\b(hf_|sk-|gsk_|xox[bp]-)[A-Za-z0-9_\-]{8,}"), MASK),
    (re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"), MASK),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=\-]{6,}"), rf"\1 {MASK}"),
    (re.compile(r"(?<=://)([^/\s:@]*):([^/\s@]+)@"), rf"\1:{MASK}@"),
    (
        re.compile(r"(?i)\b((?:password|passwd|secret|token|api[_-]?key)\s*[=:]\s*)([^\s,;'\"&]+)"),
        rf"\1{MASK}",
    ),
)


def looks_secret(name: str) -> bool:
    """Whether a setting, header or environment variable of this name is taken to hold a secret."""
    return bool(_SECRET_NAME.search(name))


def known_secrets(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Values of ``MIN_SECRET_LENGTH`` or more characters of all variables with secret-looking names, longest first."""
    source = os.environ if environ is None else environ
    found = {v for k, v in source.items() if looks_secret(k) and len(v) >= MIN_SECRET_LENGTH}
    return tuple(sorted(found, key=len, reverse=True))


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """*text* without the given secrets, those of the environment, and anything that looks like one.

    A known secret shorter than ``MIN_SECRET_LENGTH`` is not looked for.
    """
    for value in (*secrets, *known_secrets()):
        if len(value) >= MIN_SECRET_LENGTH:
            text = text.replace(value, MASK)
    for pattern, replacement in _SECRET_TEXT:
        text = pattern.sub(replacement, text)
    return text


def scrub_env(environ: Mapping[str, str]) -> dict[str, str]:
    """A copy for the record: secret-looking names keep their name and lose their value."""
    return {k: (MASK if looks_secret(k) else scrub(v)) for k, v in sorted(environ.items())}


def scrub_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """As :func:`scrub_env`, for HTTP headers."""
    return {k: (MASK if looks_secret(k) else scrub(v)) for k, v in headers.items()}


def url_without_credentials(url: str) -> str:
    """*url* without user, password, query and fragment: what may be shown, stored and hashed."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    netloc = f"{host}:{parts.port}" if parts.port else host
    return urlunsplit((parts.scheme, netloc, parts.path.rstrip("/"), "", ""))
