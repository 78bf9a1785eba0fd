"""The environment and the command line of a container.

Belongs here: values from fields, Secrets and ConfigMaps, service variables, ``$(NAME)``. Does not belong here:
paths of volumes (``volumes``).

Nothing of the test runner's environment is passed on but ``PATH``: a pod that works only because of what its
parent had set would prove nothing.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.launch.kube.kinds import CONFIG_MAP, SECRET, SERVICE, Kind, Obj, name_of, namespace_of
from tests.launch.kube.store import Store
from tests.launch.kube.volumes import Paths

PROJECT = Path(__file__).resolve().parents[3]
_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
_KEYED_FIELD = re.compile(r"^metadata\.(labels|annotations)\['(.+)'\]$")


class ConfigError(Exception):
    """The container cannot be configured; its text is that of CreateContainerConfigError."""


def expand(text: str, values: Mapping[str, str]) -> str:
    """``$(NAME)`` by its value, left as it is when there is none; ``$$`` is a plain ``$``."""

    def value(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else values.get(found[1], found[0])

    return _REFERENCE.sub(value, text)


class Environment:
    """Builds the environment of the containers of one pod."""

    def __init__(self, store: Store, pod: Obj, *, ip: str, folder: Path, api: tuple[str, int]) -> None:
        self.store, self.pod, self.ip, self.folder, self.api = store, pod, ip, folder, api
        self.namespace = str(namespace_of(pod))

    def build(self, container: Mapping[str, Any], paths: Paths) -> dict[str, str]:
        """Paths of volumes are replaced in the values that the manifest spells out. Raises ``ConfigError``."""
        values = {**self._base(), **self._services()}
        for source in container.get("envFrom") or ():
            values |= self._all_of(source)
        for entry in container.get("env") or ():
            if entry.get("valueFrom"):
                value = self._value_from(entry["valueFrom"], container)
                if value is not None:
                    values[entry["name"]] = value
            else:
                values[entry["name"]] = expand(paths.replace(entry.get("value") or ""), values)
        return values

    def _base(self) -> dict[str, str]:
        temporary = self.folder / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "PYTHONPATH": str(PROJECT),
            "HOME": str(self.folder),
            "TMPDIR": str(temporary),
            "LANG": "C.UTF-8",
            "HOSTNAME": self.pod["spec"].get("hostname") or name_of(self.pod),
            "KUBERNETES_SERVICE_HOST": self.api[0],
            "KUBERNETES_SERVICE_PORT": str(self.api[1]),
        }

    def _services(self) -> dict[str, str]:
        values = {}
        for service in self.store.all(SERVICE, self.namespace):
            name = re.sub(r"[^A-Z0-9]", "_", name_of(service).upper())
            host, ports = service["spec"]["clusterIP"], service["spec"]["ports"]
            if host == "None":
                continue
            values[f"{name}_SERVICE_HOST"] = host
            values[f"{name}_SERVICE_PORT"] = str(ports[0]["port"])
            values[f"{name}_PORT"] = f"tcp://{host}:{ports[0]['port']}"
        return values

    def _held(self, kind: Kind, source: Mapping[str, Any]) -> Obj | None:
        held = self.store.find(kind, self.namespace, source["name"])
        if held is None and not source.get("optional"):
            raise ConfigError(f'{kind.name.lower()} "{source["name"]}" not found')
        return held

    def _all_of(self, source: Mapping[str, Any]) -> dict[str, str]:
        prefix = source.get("prefix") or ""
        for field, kind in (("configMapRef", CONFIG_MAP), ("secretRef", SECRET)):
            if source.get(field):
                held = self._held(kind, source[field])
                return {
                    prefix + key: _text(kind, text) for key, text in ((held or {}).get("data") or {}).items()
                }
        return {}

    def _value_from(self, source: Mapping[str, Any], container: Mapping[str, Any]) -> str | None:
        for field, kind in (("configMapKeyRef", CONFIG_MAP), ("secretKeyRef", SECRET)):
            if source.get(field):
                return self._key_of(kind, source[field])
        if source.get("fieldRef"):
            return self._field(source["fieldRef"]["fieldPath"])
        if source.get("resourceFieldRef"):
            part, _, name = source["resourceFieldRef"]["resource"].partition(".")
            return str(((container.get("resources") or {}).get(part) or {}).get(name, "0"))
        return None

    def _key_of(self, kind: Kind, source: Mapping[str, Any]) -> str | None:
        held = self._held(kind, source)
        data = (held or {}).get("data") or {}
        if source["key"] in data:
            return _text(kind, data[source["key"]])
        if source.get("optional"):
            return None
        raise ConfigError(
            f"couldn't find key {source['key']} in {kind.name} {self.namespace}/{source['name']}"
        )

    def _field(self, path: str) -> str:
        if keyed := _KEYED_FIELD.match(path):
            return str((self.pod["metadata"].get(keyed[1]) or {}).get(keyed[2], ""))
        known = {
            "metadata.name": name_of(self.pod),
            "metadata.namespace": self.namespace,
            "metadata.uid": self.pod["metadata"]["uid"],
            "spec.nodeName": self.pod["spec"].get("nodeName", ""),
            "spec.serviceAccountName": self.pod["spec"].get("serviceAccountName", ""),
            "status.podIP": self.ip,
            "status.podIPs": self.ip,
            "status.hostIP": "127.0.0.1",
            "status.hostIPs": "127.0.0.1",
        }
        if path not in known:
            raise ConfigError(f"unsupported fieldPath: {path}")
        return str(known[path])


def _text(kind: Kind, value: str) -> str:
    return value if kind is CONFIG_MAP else base64.b64decode(value).decode()
