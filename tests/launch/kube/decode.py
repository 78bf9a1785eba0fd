"""Whether a body can be read as its kind: JSON types, quantities, times. Refusals are 400.

Belongs here: what Go's decoder refuses. Does not belong here: rules about values (``checks``), defaults.
Only the fields our manifests use are looked at; an unknown field is kept, where a real server drops it with a
warning: the schema check of the manifests is where those are caught.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from tests.launch.kube.answers import ApiError, bad_request, undecodable
from tests.launch.kube.kinds import Kind, Obj
from tests.launch.kube.quantities import quantity

_MICRO = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)$")
_NUMBERS = {
    "DeploymentSpec": ("replicas", "minReadySeconds", "progressDeadlineSeconds", "revisionHistoryLimit"),
    "JobSpec": (
        *("parallelism", "completions", "backoffLimit", "activeDeadlineSeconds"),
        "ttlSecondsAfterFinished",
    ),
    "PodSpec": ("terminationGracePeriodSeconds", "activeDeadlineSeconds"),
    "LeaseSpec": ("leaseDurationSeconds", "leaseTransitions"),
}
_PROBE = ("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold", "successThreshold")
_QUANTITY_FORM = "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


def _json_type(value: Any) -> str:
    names = {bool: "bool", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _without_nulls(value: Any) -> Any:
    """A null is the same as no field."""
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


class Decoder:
    """Reads one body of one kind."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    def refuse(self, value: Any, field: str, wanted: str) -> ApiError:
        why = f"json: cannot unmarshal {_json_type(value)} into Go struct field {field} of type {wanted}"
        return undecodable(self.kind, why)

    def read(self, body: Any) -> Obj:
        """The body with kind, apiVersion and metadata. Raises ``ApiError`` 400."""
        if not isinstance(body, dict):
            raise undecodable(self.kind, "json: cannot unmarshal into Go value")
        self._identity(body)
        obj = {**_without_nulls(body), "apiVersion": self.kind.api_version, "kind": self.kind.name}
        obj["metadata"] = dict(obj.get("metadata") or {})
        for field in ("labels", "annotations"):
            self._strings(obj["metadata"].get(field), f"ObjectMeta.metadata.{field}")
        match self.kind.name:
            case "ConfigMap":
                self._strings(obj.get("data"), "ConfigMap.data")
            case "Secret":
                obj = self._secret(obj)
            case "Lease":
                self._numbers(obj.get("spec"), "LeaseSpec", "spec")
                self._times(obj.get("spec") or {})
            case "Pod":
                self._pod_spec(obj.get("spec"), "spec")
            case "Deployment" | "ReplicaSet" | "Job":
                spec = obj.get("spec")
                self._numbers(spec, f"{self.kind.name}Spec", "spec")
                template = (spec or {}).get("template") or {}
                meta = template.get("metadata") or {}
                for field in ("labels", "annotations"):
                    self._strings(meta.get(field), f"ObjectMeta.spec.template.metadata.{field}")
                self._pod_spec(template.get("spec"), "spec.template.spec")
        return obj

    def _identity(self, body: Obj) -> None:
        version, name = body.get("apiVersion"), body.get("kind")
        if version not in (None, "", self.kind.api_version):
            raise bad_request(
                f"the API version in the data ({version}) does not match the expected API version "
                f"({self.kind.api_version})"
            )
        if name not in (None, "", self.kind.name):
            group = self.kind.group or "core"
            raise bad_request(
                f'{name} in version "{self.kind.version}" cannot be handled as a {self.kind.name}: '
                f"converting (v1.{name}) to ({group}.{self.kind.name}): unknown conversion"
            )

    def _strings(self, value: Any, field: str) -> None:
        if value is None:
            return
        if not isinstance(value, dict):
            raise self.refuse(value, field, "map[string]string")
        for one in value.values():
            if not isinstance(one, str):
                raise self.refuse(one, field, "string")

    def _numbers(self, spec: Any, struct: str, path: str) -> None:
        if spec is None:
            return
        if not isinstance(spec, dict):
            raise self.refuse(spec, path, struct)
        for name in _NUMBERS.get(struct, ()):
            value = spec.get(name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                wide = name in ("activeDeadlineSeconds", "terminationGracePeriodSeconds")
                raise self.refuse(value, f"{struct}.{path}.{name}", "int64" if wide else "int32")

    def _secret(self, obj: Obj) -> Obj:
        self._strings(obj.get("data"), "Secret.data")
        self._strings(obj.get("stringData"), "Secret.stringData")
        data = dict(obj.get("data") or {})
        for text in data.values():
            try:
                base64.b64decode(text, validate=True)
            except binascii.Error as error:
                raise undecodable(self.kind, "illegal base64 data at input byte 0") from error
        for key, text in (obj.get("stringData") or {}).items():
            data[key] = base64.b64encode(text.encode()).decode()
        secret = {key: value for key, value in obj.items() if key != "stringData"}
        return {**secret, "data": data, "type": obj.get("type") or "Opaque"}

    def _times(self, spec: Mapping[str, Any]) -> None:
        for name in ("renewTime", "acquireTime"):
            text = spec.get(name)
            if text is not None and not (isinstance(text, str) and _MICRO.match(text)):
                layout = "2006-01-02T15:04:05.000000Z07:00"
                raise undecodable(self.kind, f'parsing time "{text}" as "{layout}": cannot parse')

    def _pod_spec(self, spec: Any, path: str) -> None:
        if spec is None:
            return
        self._numbers(spec, "PodSpec", path)
        for field in ("initContainers", "containers"):
            for container in spec.get(field) or ():
                self._container(container, f"{path}.{field}")

    def _container(self, container: Any, path: str) -> None:
        if not isinstance(container, dict):
            raise self.refuse(container, path, "v1.Container")
        for field in ("command", "args"):
            for word in container.get(field) or ():
                if not isinstance(word, str):
                    raise self.refuse(word, f"Container.{path}.{field}", "string")
        for entry in container.get("env") or ():
            if "value" in entry and not isinstance(entry["value"], str | None):
                raise self.refuse(entry["value"], f"EnvVar.{path}.env.value", "string")
        for port in container.get("ports") or ():
            if not isinstance(port.get("containerPort"), int):
                raise self.refuse(
                    port.get("containerPort"), f"ContainerPort.{path}.ports.containerPort", "int32"
                )
        for name in ("readinessProbe", "livenessProbe", "startupProbe"):
            for field in _PROBE:
                value = (container.get(name) or {}).get(field)
                if value is not None and not isinstance(value, int):
                    raise self.refuse(value, f"Probe.{path}.{name}.{field}", "int32")
        for amounts in (container.get("resources") or {}).values():
            for amount in amounts.values() if isinstance(amounts, dict) else ():
                self._quantity(amount)

    def _quantity(self, amount: Any) -> None:
        try:
            quantity(amount)
        except ValueError as error:
            raise undecodable(
                self.kind, f"quantities must match the regular expression {_QUANTITY_FORM}"
            ) from error
