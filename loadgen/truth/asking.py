"""What a request asks for, read as engines read it, and the refusals they give.

Belongs here: chat and completion bodies, ``/tokenize``, error documents in OpenAI's shape. A token is a word;
a chat prompt has ``TEMPLATE_TOKENS`` more.
Does not belong here: the answer (``answers``), HTTP (``loop``).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import orjson

from loadgen.truth.options import Behaviour

TEMPLATE_TOKENS = 4
_REASONS = {
    400: ("400 Bad Request", "invalid_request_error"),
    404: ("404 Not Found", "invalid_request_error"),
    405: ("405 Method Not Allowed", "invalid_request_error"),
    411: ("411 Length Required", "invalid_request_error"),
    413: ("413 Content Too Large", "invalid_request_error"),
    429: ("429 Too Many Requests", "rate_limit_error"),
    500: ("500 Internal Server Error", "server_error"),
}


class Refusal(Exception):
    """The request is answered with an HTTP error: ``status`` line and ``document``."""

    def __init__(self, code: int, message: str, param: str | None = None, name: str | None = None) -> None:
        super().__init__(message)
        self.status, self.document = refusal(code, message, param, name)


def refusal(
    code: int, message: str, param: str | None = None, name: str | None = None
) -> tuple[str, dict[str, Any]]:
    """A status line's text and the error document that goes with it."""
    status, kind = _REASONS[code]
    return status, {"error": {"message": message, "type": kind, "param": param, "code": name or code}}


@dataclass(frozen=True, slots=True)
class Asked:
    """``limit`` and ``least`` bound the answer's tokens; ``usage`` is ``none``, ``final`` or ``every``."""

    chat: bool
    model: str
    stream: bool
    words: list[str]
    input_tokens: int
    limit: int | None
    least: int
    ignore_eos: bool
    usage: str

    def length(self, natural: int) -> int:
        """Tokens of the answer, given where the model would stop by itself."""
        if self.limit is None:
            return max(natural, self.least)
        return self.limit if self.ignore_eos else min(self.limit, max(natural, self.least))


def read_request(chat: bool, body: bytes, behaviour: Behaviour) -> Asked:
    """Interpret a completion request; raises :class:`Refusal`."""
    document = _object(body)
    model = document.get("model")
    if not isinstance(model, str) or not model:
        raise Refusal(400, "you must provide a model parameter", "model")
    if behaviour.models and model not in behaviour.models:
        raise Refusal(404, f"The model `{model}` does not exist.", "model", "model_not_found")
    words = _words(document, "messages" if chat else "prompt")
    limit = document.get("max_completion_tokens")
    limit = document.get("max_tokens") if limit is None else limit
    least = document.get("min_tokens") or 0
    for name, value in (("max_tokens", limit), ("min_tokens", least)):
        if value is not None and (type(value) is not int or value < (name == "max_tokens")):
            raise Refusal(400, f"{name} must be at least {int(name == 'max_tokens')}, got {value!r}", name)
    if limit is not None and least > limit:
        raise Refusal(400, f"min_tokens must not exceed max_tokens={limit}, got {least}", "min_tokens")
    if document.get("n") not in (None, 1):
        raise Refusal(400, "only n=1 is served", "n")
    options = document.get("stream_options") or {}
    if not isinstance(options, dict):
        raise Refusal(400, "stream_options must be an object", "stream_options")
    stream = bool(document.get("stream"))
    if options and not stream:
        raise Refusal(400, "stream_options can only be set if stream is true", "stream_options")
    usage = "every" if options.get("continuous_usage_stats") else "final"
    input_tokens = len(words) + TEMPLATE_TOKENS
    asked = limit or least
    if input_tokens + asked > behaviour.max_model_len:
        raise Refusal(
            400,
            f"This model's maximum context length is {behaviour.max_model_len} tokens. However, you requested "
            f"{input_tokens + asked} tokens ({input_tokens} in the prompt, {asked} in the completion).",
            "messages" if chat else "prompt",
            "context_length_exceeded",
        )
    return Asked(
        chat,
        model,
        stream,
        words,
        input_tokens,
        limit,
        least,
        bool(document.get("ignore_eos")),
        usage if options.get("include_usage") else "none",
    )


def tokenise(body: bytes, behaviour: Behaviour) -> dict[str, Any]:
    """``POST /tokenize`` of vLLM (``prompt`` or ``messages``) and llama.cpp (``content``); raises
    :class:`Refusal`."""
    document = _object(body)
    name = next((name for name in ("messages", "prompt", "content") if name in document), "prompt")
    words = _words(document, name)
    tokens = [zlib.crc32(word.encode()) & 0xFFFF for word in words]
    if name == "messages":
        tokens = [0] * TEMPLATE_TOKENS + tokens
    return {"count": len(tokens), "max_model_len": behaviour.max_model_len, "tokens": tokens}


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise Refusal(400, "the body must be a JSON object")
    return document


def _words(document: dict[str, Any], name: str) -> list[str]:
    """The prompt's words; a prompt of token ids has a word for each."""
    value = document.get(name)
    if name == "messages":
        if not isinstance(value, list) or not value:
            raise Refusal(400, "messages must be an array with at least one message", name)
        texts = []
        for message in value:
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                raise Refusal(400, "each message must be an object with a role", name)
            content = message.get("content")
            if isinstance(content, list):
                texts += [str(part.get("text", "")) for part in content if isinstance(part, dict)]
            elif content is None or isinstance(content, str):
                texts.append(content or "")
            else:
                raise Refusal(400, "a message's content must be a string or an array of parts", name)
        return " ".join(texts).split()
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], (str, list)):
        value = value[0]
    if isinstance(value, list) and value and all(type(one) is int for one in value):
        return list(map(str, value))
    if not isinstance(value, str):
        raise Refusal(400, f"{name} must be a string, or an array of one string or of token ids", name)
    return value.split()
