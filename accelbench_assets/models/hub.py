"""Asking the model hub: which commit, what its configuration says, how much its weights weigh.

Belongs here: the requests, their bounds, and one sentence for each way they fail. Does not belong here: what the
documents mean (``config``, ``weights``), which commit is new (``releases``).

The token is the environment's, read at that moment; one stored on this machine is not looked for, and none is kept.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accelbench_assets.errors import AccelBenchError
from accelbench_assets.models import weights
from accelbench_assets.models.hub_errors import Asking, HubError, explain, no_config
from accelbench_assets.models.weights import Weights
from accelbench_assets.releases.hub import TOKEN_VARIABLES
from accelbench_assets.releases.web import USER_AGENT, checked

HUB_URL = "https://huggingface.co"
TIMEOUT_S = 15.0
MOST_CONFIG_BYTES = 8 * 1024 * 1024
MOST_INDEX_BYTES = 128 * 1024 * 1024
_FIRST_HEADER_BYTES = 256 * 1024
_WHOLE = 8  # a whole file may take this many times the limit of one wait


@dataclass(frozen=True, slots=True)
class HubDocuments:
    """What was found: ``gated`` true for any kind of gate, null where the hub does not say; ``license`` as tagged."""

    model_id: str
    endpoint: str
    commit: str
    gated: bool | None
    license: str | None
    config: Mapping[str, Any]
    weights: Weights
    notes: tuple[str, ...]


def fetch(
    model_id: str, *, hub_url: str = HUB_URL, revision: str | None = None, timeout_s: float = TIMEOUT_S
) -> HubDocuments:
    """The documents of *model_id* at *revision* (a commit, tag or branch; default its main branch).

    Reads some kilobytes, and for large mixtures the index of some megabytes. Raises ``HubError``.
    """
    ask = _asking(model_id, hub_url, timeout_s)
    info = _info(ask, revision)
    commit = info.sha
    if not isinstance(commit, str) or len(commit) != 40:
        ask.fail(f"The hub at {ask.endpoint} names no commit of {model_id}.", "refused", "Ask again later.")
    files = {str(one.rfilename): one.size for one in info.siblings or ()}
    if "config.json" not in files and files:
        no_config(ask, files)
    config = _document(ask, commit, "config.json", MOST_CONFIG_BYTES)
    notes: list[str] = []
    found = _weights(ask, commit, files, info, notes)
    gated = info.gated if isinstance(info.gated, bool) else (True if isinstance(info.gated, str) else None)
    return HubDocuments(
        model_id=str(info.id or model_id),
        endpoint=ask.endpoint,
        commit=commit,
        gated=gated,
        license=_license(info),
        config=config,
        weights=found,
        notes=tuple(notes),
    )


def _asking(model_id: str, hub_url: str, timeout_s: float) -> Asking:
    try:
        endpoint = checked(hub_url, "watch.hub_url")
    except AccelBenchError as error:
        raise HubError(error.message, code="setting", hint=error.hint) from None
    for name in TOKEN_VARIABLES:
        if value := os.environ.get(name, "").strip():
            return Asking(model_id, endpoint, value, name, timeout_s)
    return Asking(model_id, endpoint, None, None, timeout_s)


def _info(ask: Asking, revision: str | None) -> Any:
    from huggingface_hub import HfApi

    try:
        return HfApi(endpoint=ask.endpoint).model_info(
            ask.model_id,
            revision=revision,
            files_metadata=True,
            timeout=ask.timeout_s,
            token=ask.token or False,
        )
    except Exception as error:
        explain(ask, error, revision)


def _document(ask: Asking, commit: str, name: str, most: int) -> dict[str, Any]:
    content = _read(ask, commit, name, most)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        ask.fail(
            f"{name} of {ask.model_id} at commit {commit[:7]} is not a JSON object.",
            "bad_config",
            "Look at the file on the hub; another revision may be whole (--revision).",
        )
    return found


def _read(
    ask: Asking, commit: str, name: str, most: int, *, first: int = 0, last: int | None = None
) -> bytes:
    """Bytes *first* to *last* of a file, at most *most*: what comes beyond is not read."""
    from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status

    headers = {"User-Agent": USER_AGENT}
    if ask.token is not None:
        headers["Authorization"] = f"Bearer {ask.token}"
    if last is not None:
        headers["Range"] = f"bytes={first}-{last}"
    wanted = most if last is None else last - first + 1
    content = bytearray()
    try:
        url = hf_hub_url(ask.model_id, name, revision=commit, endpoint=ask.endpoint)
        with get_session().stream("GET", url, headers=headers, timeout=ask.timeout_s) as response:
            hf_raise_for_status(response)
            skip = first if response.status_code == 200 else 0  # a server without ranges sends it all
            end = time.monotonic() + _WHOLE * ask.timeout_s
            for part in response.iter_bytes():
                if time.monotonic() > end:
                    raise TimeoutError(f"{name} did not come to its end in {_WHOLE * ask.timeout_s:g} s")
                content += part[skip:] if skip < len(part) else b""
                skip = max(0, skip - len(part))
                if len(content) >= wanted:
                    break
    except Exception as error:
        explain(ask, error, commit, name)
    if last is None and len(content) >= most:
        ask.fail(
            f"{name} of {ask.model_id} has more than {most:,} bytes.",
            "bad_config",
            "No configuration is that large: look at the repository on the hub.",
        )
    return bytes(content[:wanted])


def _weights(
    ask: Asking, commit: str, files: Mapping[str, int | None], info: Any, notes: list[str]
) -> Weights:
    counted = weights.of_counts(getattr(info.safetensors, "parameters", None))
    if weights.INDEX_FILE in files:
        total = weights.of_index(_document(ask, commit, weights.INDEX_FILE, MOST_INDEX_BYTES))
        if total is not None:
            return Weights(
                total, "index", counted.parameters if counted else None, counted.dtypes if counted else ()
            )
        notes.append("the index states no total_size: the size is that of the files")
    elif weights.SINGLE_FILE in files:
        try:
            return _single(ask, commit)
        except ValueError as error:
            notes.append(f"the header of {weights.SINGLE_FILE} cannot be read ({error})")
    size = weights.of_files(files)
    if size is not None:
        return Weights(
            size, "file", counted.parameters if counted else None, counted.dtypes if counted else ()
        )
    if counted is not None:
        return counted
    others = sorted(
        {name.rsplit(".", 1)[-1] for name in files if name.endswith((".bin", ".gguf", ".pt", ".pth"))}
    )
    kind = f"only .{', .'.join(others)} files" if others else "no weight files at its root"
    notes.append(
        f"no safetensors ({kind}): the size of the weights is not known without downloading them; "
        "name a repository with safetensors, or convert the checkpoint"
    )
    return Weights(None, "none")


def _single(ask: Asking, commit: str) -> Weights:
    name = weights.SINGLE_FILE
    first = _read(ask, commit, name, _FIRST_HEADER_BYTES, last=_FIRST_HEADER_BYTES - 1)
    end = weights.HEADER_LENGTH_BYTES + weights.header_length(first)
    if end > len(first):
        first = _read(ask, commit, name, end, last=end - 1)
    return weights.of_header(first[weights.HEADER_LENGTH_BYTES : end])


def _license(info: Any) -> str | None:
    tags = [str(tag) for tag in info.tags or ()]
    found = next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), None)
    card = info.card_data
    if found in (None, "other") and card is not None:
        found = getattr(card, "license_name", None) or getattr(card, "license", None) or found
    return str(found).lower()[:80] if isinstance(found, str) and found else None
