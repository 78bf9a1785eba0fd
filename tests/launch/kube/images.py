"""Which local command stands for which container image.

Belongs here: the image map, image names, the texts of failed pulls. Does not belong here: the commands themselves
(``standins``), waiting (``container``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

_NAME = re.compile(r"^[a-z0-9]([a-z0-9._/:@-]|(?<=:)[A-Za-z0-9_])*[A-Za-z0-9_.-]*$")
BYTES = 18_566_139  # of every image; a made-up figure


@dataclass(frozen=True, slots=True)
class Image:
    """``entrypoint`` is the argv that stands for the image's own; ``pull_s`` how long a first pull takes.

    ``command`` is what manifests write to call that same program; any other command is run as it is.
    """

    entrypoint: tuple[str, ...]
    pull_s: float = 0.0
    command: tuple[str, ...] = ()

    def program(self, command: Sequence[str]) -> list[str]:
        """What to run for a manifest's *command*, which may be empty."""
        return list(self.entrypoint if not command or tuple(command) == self.command else command)


class Images:
    """Image prefix to ``[argv]`` or ``{"argv": [...], "pull_s": seconds, "command": [...]}``; the longest wins."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self._images: dict[str, Image] = {}
        for prefix, row in table.items():
            given = row if isinstance(row, dict) else {"argv": row}
            self._images[prefix] = Image(
                tuple(given["argv"]), float(given.get("pull_s", 0.0)), tuple(given.get("command") or ())
            )

    def find(self, name: str) -> Image | None:
        """The image with ``{image}`` and ``{tag}`` of its entry point filled in."""
        fitting = [prefix for prefix in self._images if name.startswith(prefix)]
        if not fitting:
            return None
        image = self._images[max(fitting, key=len)]
        words = [word.replace("{image}", name).replace("{tag}", tag_of(name)) for word in image.entrypoint]
        return replace(image, entrypoint=tuple(words))


def tag_of(name: str) -> str:
    """``latest`` for a name without one."""
    return name.partition("@")[0].rpartition("/")[2].partition(":")[2] or "latest"


def full_name(name: str) -> str:
    """With registry and tag, as the container runtime prints it."""
    host = name.partition("/")[0]
    located = (
        name
        if "/" in name and ("." in host or ":" in host)
        else f"docker.io/{'' if '/' in name else 'library/'}{name}"
    )
    return located if "@" in located or ":" in located.rpartition("/")[2] else f"{located}:latest"


def image_id(name: str) -> str:
    """Repository and a digest: the one in the name, or one made up from it."""
    image = full_name(name)
    repository, _, digest = image.partition("@")
    if not digest:
        repository = image.rpartition(":")[0]
        digest = f"sha256:{hashlib.sha256(image.encode()).hexdigest()}"
    return f"{repository}@{digest}"


def is_well_formed(name: str) -> bool:
    return bool(_NAME.match(name))


def pull_failure(name: str, fault: str) -> str:
    """What the kubelet reports; *fault* is one of ``image_pull_not_found``, ``…_network``, ``…_denied``."""
    image = full_name(name)
    head = f'failed to pull and unpack image "{image}": '
    if fault == "image_pull_denied":
        repository = image.partition("@")[0].rpartition(":")[0]
        why = (
            f"failed to resolve image: pull access denied, repository does not exist or may require "
            f"authorization: authorization failed: no basic auth credentials ({repository})"
        )
        return f"rpc error: code = Unknown desc = {head}{why}"
    if fault == "image_pull_network":
        registry = image.partition("/")[0].replace("docker.io", "registry-1.docker.io")
        why = (
            f'failed to resolve image: failed to do request: Head "https://{registry}/v2/": '
            f"dial tcp: lookup {registry}: connect: network is unreachable"
        )
        return f"rpc error: code = Unknown desc = {head}{why}"
    return f"rpc error: code = NotFound desc = {head}failed to resolve image: {image}: not found"
