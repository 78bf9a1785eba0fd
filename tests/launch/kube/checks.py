"""Rules about values: what a real server refuses with 422.

Belongs here: the rules our manifests could break, with the real texts; what may not change. Does not belong here:
JSON types (``decode``), quota and accounts (``quota``).
"""

from __future__ import annotations

import json
import re
from typing import Any

from tests.launch.kube.answers import ApiError, invalid
from tests.launch.kube.kinds import Kind, Obj
from tests.launch.kube.quantities import is_device, quantity
from tests.launch.kube.selectors import matches_labels

_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_LABEL_VALUE = r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"
_NAME_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    f"'{_SUBDOMAIN}')"
)
_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used "
    f"for validation is '{_LABEL_VALUE}')"
)
_MIB = 1 << 20


class Checker:
    """Checks one object of one kind; every method raises ``ApiError`` 422 or returns nothing."""

    def __init__(self, kind: Kind, obj: Obj) -> None:
        self.kind, self.obj = kind, obj
        self.name = str(obj["metadata"].get("name", ""))

    def refuse(self, field: str, why: str) -> ApiError:
        return invalid(self.kind, self.name, field, why)

    def check(self) -> None:
        self._metadata()
        spec = self.obj.get("spec") or {}
        match self.kind.name:
            case "ConfigMap":
                self._config_map()
            case "Pod":
                self._pod_spec(spec, "spec")
            case "Deployment":
                self._deployment(spec)
            case "Job":
                self._job(spec)
            case "Service":
                self._service(spec)
            case "Lease":
                seconds = spec.get("leaseDurationSeconds")
                if seconds is not None and seconds <= 0:
                    raise self.refuse(
                        "spec.leaseDurationSeconds", f"Invalid value: {seconds}: must be greater than 0"
                    )

    def _metadata(self) -> None:
        if not re.fullmatch(_SUBDOMAIN, self.name):
            raise self.refuse("metadata.name", f'Invalid value: "{self.name}": {_NAME_TEXT}')
        longest = 63 if self.kind.name == "Service" else 253
        if len(self.name) > longest:
            why = f'Invalid value: "{self.name}": must be no more than {longest} characters'
            raise self.refuse("metadata.name", why)
        meta = self.obj["metadata"]
        self._labels(meta.get("labels") or {}, "metadata.labels")
        if sum(len(k) + len(v) for k, v in (meta.get("annotations") or {}).items()) > 256 << 10:
            raise self.refuse("metadata.annotations", "Too long: may not be more than 262144 bytes")
        owners = meta.get("ownerReferences") or ()
        for owner in owners:
            for field in ("apiVersion", "kind", "name", "uid"):
                if not owner.get(field):
                    why = f'Invalid value: "{owner.get(field, "")}": must not be empty'
                    raise self.refuse(f"metadata.ownerReferences.{field}", why)
        if sum(bool(owner.get("controller")) for owner in owners) > 1:
            why = "Invalid value: Only one reference can have Controller set to true"
            raise self.refuse("metadata.ownerReferences", why)
        for finalizer in meta.get("finalizers") or ():
            if "/" not in finalizer and finalizer not in ("orphan", "foregroundDeletion", "kubernetes"):
                why = "name is neither a standard finalizer name nor is it fully qualified"
                raise self.refuse("metadata.finalizers", f'Invalid value: "{finalizer}": {why}')

    def _labels(self, labels: Obj, field: str) -> None:
        for key, value in labels.items():
            if len(value) > 63:
                raise self.refuse(field, f'Invalid value: "{value}": must be no more than 63 bytes')
            if not re.fullmatch(_LABEL_VALUE, value):
                raise self.refuse(field, f'Invalid value: "{value}": {_VALUE_TEXT}')
            if not re.fullmatch(rf"({_SUBDOMAIN}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?", key):
                raise self.refuse(
                    field, f'Invalid value: "{key}": name part must consist of alphanumeric characters'
                )

    def _config_map(self) -> None:
        data = self.obj.get("data") or {}
        for key in data:
            if not re.fullmatch(r"[-._a-zA-Z0-9]+", key):
                why = (
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' "
                    "(e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is "
                    "'[-._a-zA-Z0-9]+')"
                )
                raise self.refuse(f"data[{key}]", f'Invalid value: "{key}": {why}')
        if sum(len(text.encode()) for text in data.values()) > _MIB:
            raise self.refuse("[]", f"Too long: may not be more than {_MIB} bytes")

    def _deployment(self, spec: Obj) -> None:
        self._not_negative(spec, "replicas")
        template = self._template(spec)
        labels = (template.get("metadata") or {}).get("labels") or {}
        if not spec.get("selector"):
            raise self.refuse("spec.selector", "Required value")
        if not matches_labels(spec["selector"], labels):
            shown = json.dumps(labels, separators=(",", ":"))
            why = f"Invalid value: {shown}: `selector` does not match template `labels`"
            raise self.refuse("spec.template.metadata.labels", why)
        policy = template["spec"].get("restartPolicy")
        if policy != "Always":
            why = f'Unsupported value: "{policy}": supported values: "Always"'
            raise self.refuse("spec.template.spec.restartPolicy", why)
        deadline = spec["progressDeadlineSeconds"]
        if spec.get("minReadySeconds", 0) >= deadline:
            why = f"Invalid value: {deadline}: must be greater than minReadySeconds"
            raise self.refuse("spec.progressDeadlineSeconds", why)

    def _job(self, spec: Obj) -> None:
        for field in (
            "parallelism",
            "completions",
            "backoffLimit",
            "ttlSecondsAfterFinished",
            "activeDeadlineSeconds",
        ):
            self._not_negative(spec, field)
        template = self._template(spec)
        if template["spec"].get("restartPolicy") not in ("OnFailure", "Never"):
            why = 'Required value: valid values: "OnFailure", "Never"'
            raise self.refuse("spec.template.spec.restartPolicy", why)
        if "backoffLimitPerIndex" in spec and spec["completionMode"] != "Indexed":
            why = f"Invalid value: {spec['backoffLimitPerIndex']}: requires indexed completion mode"
            raise self.refuse("spec.backoffLimitPerIndex", why)

    def _template(self, spec: Obj) -> Obj:
        template: Obj = spec.get("template") or {}
        self._labels((template.get("metadata") or {}).get("labels") or {}, "spec.template.labels")
        self._pod_spec(template.get("spec") or {}, "spec.template.spec")
        return template

    def _not_negative(self, spec: Obj, field: str) -> None:
        value = spec.get(field)
        if value is not None and value < 0:
            raise self.refuse(f"spec.{field}", f"Invalid value: {value}: must be greater than or equal to 0")

    def _service(self, spec: Obj) -> None:
        ports = spec.get("ports") or []
        if not ports:
            raise self.refuse("spec.ports", "Required value")
        if len(ports) > 1 and (unnamed := [i for i, port in enumerate(ports) if not port.get("name")]):
            raise self.refuse(f"spec.ports[{unnamed[0]}].name", "Required value")

    def _pod_spec(self, spec: Obj, path: str) -> None:
        if not spec.get("containers"):
            raise self.refuse(f"{path}.containers", "Required value")
        volumes = {volume.get("name") for volume in spec.get("volumes") or ()}
        seen: set[str] = set()
        for field in ("initContainers", "containers"):
            for index, container in enumerate(spec.get(field) or ()):
                place = f"{path}.{field}[{index}]"
                name = container.get("name")
                if not name:
                    raise self.refuse(f"{place}.name", "Required value")
                if name in seen:
                    raise self.refuse(f"{place}.name", f'Duplicate value: "{name}"')
                seen.add(name)
                self._container(container, place, volumes)

    def _container(self, container: Obj, place: str, volumes: set[Any]) -> None:
        if not container.get("image"):
            raise self.refuse(f"{place}.image", "Required value")
        for index, entry in enumerate(container.get("env") or ()):
            name = entry.get("name", "")
            if not name or not name.isprintable() or "=" in name or not name.isascii():
                why = "a valid environment variable name must consist only of printable ASCII characters other than '='"
                raise self.refuse(f"{place}.env[{index}].name", f'Invalid value: "{name}": {why}')
        for index, mount in enumerate(container.get("volumeMounts") or ()):
            if mount.get("name") not in volumes:
                raise self.refuse(f"{place}.volumeMounts[{index}].name", f'Not found: "{mount.get("name")}"')
        self._resources(container.get("resources") or {}, f"{place}.resources")

    def _resources(self, resources: Obj, place: str) -> None:
        limits, asked = resources.get("limits") or {}, resources.get("requests") or {}
        for name, amount in {**asked, **limits}.items():
            if is_device(name) and quantity(amount) % 1:
                why = f'Invalid value: "{int(quantity(amount) * 1000)}m": must be an integer'
                raise self.refuse(f"{place}.limits[{name}]", why)
        for name, amount in asked.items():
            if is_device(name) and name not in limits:
                why = "Required value: Limit must be set for non overcommitable resources"
                raise self.refuse(f"{place}.limits", why)
            if is_device(name) and quantity(amount) != quantity(limits[name]):
                why = f'Invalid value: "{amount}": must be equal to {name} limit of {limits[name]}'
                raise self.refuse(f"{place}.requests", why)
            if name in limits and quantity(amount) > quantity(limits[name]):
                why = (
                    f'Invalid value: "{amount}": must be less than or equal to {name} limit of {limits[name]}'
                )
                raise self.refuse(f"{place}.requests", why)


_FIXED = {
    "Deployment": ("selector",),
    "Job": ("selector", "template", "completionMode"),
    "Service": ("clusterIP",),
}


def check_update(kind: Kind, old: Obj, new: Obj) -> None:
    """What may not change once set. Raises ``ApiError`` 422."""
    name = old["metadata"]["name"]
    for field in _FIXED.get(kind.name, ()):
        before, after = old["spec"].get(field), (new.get("spec") or {}).get(field)
        if before == after:
            continue
        if field == "clusterIP":
            raise invalid(
                kind, name, "spec.clusterIPs[0]", f'Invalid value: ["{after}"]: may not change once set'
            )
        shown = json.dumps(after, separators=(",", ":"))
        raise invalid(kind, name, f"spec.{field}", f"Invalid value: {shown}: field is immutable")
    if kind.name in ("ConfigMap", "Secret") and old.get("immutable") and old.get("data") != new.get("data"):
        raise invalid(kind, name, "data", "Forbidden: field is immutable when `immutable` is set")
    if kind.name == "Pod" and _without_images(old["spec"]) != _without_images(new.get("spec") or {}):
        why = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`"
        raise invalid(kind, name, "spec", why)


def _without_images(spec: Obj) -> Obj:
    plain = [{**container, "image": ""} for container in spec.get("containers") or ()]
    return {**spec, "containers": plain, "tolerations": None, "activeDeadlineSeconds": None}
