"""Volumes as folders.

Belongs here: filling them, and replacing a container's paths by them. Does not belong here: environment variables
(``environment``).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.launch.kube.kinds import CLAIM, CONFIG_MAP, SECRET, Obj, name_of, namespace_of
from tests.launch.kube.store import Store


class MountError(Exception):
    """A volume that cannot be set up yet; its text is that of the event FailedMount."""


def set_up(store: Store, pod: Obj, folder: Path, shared: Path) -> dict[str, Path]:
    """Volume name to folder; claims lie in *shared*. Raises ``MountError``."""
    made = {}
    for volume in pod["spec"].get("volumes") or ():
        name = volume["name"]
        made[name] = place = folder / "volumes" / name
        if claim := (volume.get("persistentVolumeClaim") or {}).get("claimName"):
            if store.find(CLAIM, namespace_of(pod), claim) is None:
                raise MountError(f'persistentvolumeclaim "{claim}" not found')
            made[name] = place = shared / str(namespace_of(pod)) / claim
        place.mkdir(parents=True, exist_ok=True)
        for path, content in _files(store, pod, volume).items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(content)
    return made


def _files(store: Store, pod: Obj, volume: Mapping[str, Any]) -> dict[str, bytes]:
    source = volume.get("configMap") or volume.get("secret")
    if source is None:
        return {}
    kind = CONFIG_MAP if volume.get("configMap") is not None else SECRET
    name = source.get("name") or source.get("secretName")
    held = store.find(kind, namespace_of(pod), name)
    if held is None:
        if source.get("optional"):
            return {}
        why = f'{kind.name.lower()} "{name}" not found'
        raise MountError(f'MountVolume.SetUp failed for volume "{volume["name"]}" : {why}')
    data = held.get("data") or {}
    content = {
        key: text.encode() if kind is CONFIG_MAP else base64.b64decode(text) for key, text in data.items()
    }
    if not source.get("items"):
        return content
    missing = [item["key"] for item in source["items"] if item["key"] not in content]
    if missing and not source.get("optional"):
        why = f"references non-existent {kind.name.lower()} key: {missing[0]}"
        raise MountError(
            f'MountVolume.SetUp failed for volume "{volume["name"]}" : {kind.name.lower()} {why}'
        )
    return {item["path"]: content[item["key"]] for item in source["items"] if item["key"] in content}


class Paths:
    """Replaces a container's mount paths by the folders, in arguments and environment values.

    A mount path counts only as a whole path or its beginning: ``/models`` is not replaced in ``s3://b/models``.
    """

    def __init__(self, container: Mapping[str, Any], folders: Mapping[str, Path]) -> None:
        places = {}
        for mount in container.get("volumeMounts") or ():
            path = mount["mountPath"].rstrip("/") or "/"
            places[path] = folders[mount["name"]] / (mount.get("subPath") or "")
        self._places = places
        # The longest first: /models/cache before /models.
        ways = "|".join(re.escape(path) for path in sorted(places, key=len, reverse=True))
        self._form = re.compile(rf"(?:(?<=://)|(?<![\w./~-]))({ways})(?=/|$|[^\w.-])") if places else None

    def replace(self, text: str) -> str:
        if self._form is None:
            return text
        return self._form.sub(lambda found: str(self._places[found[1]]), text)


def describe(pod: Obj) -> str:
    """The folder name of a pod: its name and the start of its uid."""
    return f"{name_of(pod)}-{pod['metadata']['uid'][:8]}"
