"""The YAML catalogs: models, instances and suites, read, checked and frozen.

Belongs here: the loaders of ``models.yaml``, ``instances.yaml`` and ``suites.yaml`` (row types: ``rows``). A
wrong file is refused with the file, the row and the field; unknown keys are refused. Loaders are cached: each
reads its file once per process.
Does not belong here: which cells follow from a suite (``matrix``), prices, anything read live from a cloud or
a hub.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

from partitions.deployment import CellError, Deployment
from partitions.rows import AcceleratorRow, CatalogFile, InstanceRow, ModelRow, Suite, SuiteRow

__all__ = [
    "AcceleratorRow",
    "CatalogError",
    "CatalogFile",
    "InstanceRow",
    "ModelRow",
    "Suite",
    "SuiteRow",
    "instance_families",
    "instances_file",
    "load_instances",
    "load_models",
    "load_suites",
    "models_file",
]

FOLDER = Path(__file__).resolve().parent
UNPINNED = "unpinned"
Row = TypeVar("Row", AcceleratorRow, InstanceRow, ModelRow)
_hints: Callable[[Any], dict[str, Any]] = cache(typing.get_type_hints)  # once a type, not once a row
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same safe constructors, ten times as fast


class CatalogError(ValueError):
    """A catalog file that cannot be used; the text names the file, the row and the field."""


def _refuse(file: str, row: str, field: str, problem: str) -> NoReturn:
    raise CatalogError(f"{file}, row {row}, field {field}: {problem}")


def _read(file: str, sections: Sequence[str]) -> dict[str, Any]:
    try:
        document = yaml.load((FOLDER / file).read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise CatalogError(f"{file} is not YAML: {error}") from None
    except OSError as error:
        raise CatalogError(f"{file} cannot be read: {error.strerror or error}") from None
    if not isinstance(document, dict):
        raise CatalogError(f"{file}: expected the sections {', '.join(sections)}")
    for name in (*sections, *document):
        if name not in document:
            raise CatalogError(f"{file}: the section {name} is missing")
        if name not in sections:
            raise CatalogError(f"{file}: {name!r} is not a section ({', '.join(sections)})")
    return document


def _rows(
    file: str, document: Mapping[str, Any], section: str, key: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = document[section]
    if not isinstance(rows, list):
        raise CatalogError(f"{file}: the section {section} must be a list of rows")
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        name = row.get(key) if isinstance(row, dict) else None
        if not isinstance(name, str) or not name:
            _refuse(file, f"{section}[{number}]", key, "every row must be an object that has it as a text")
        if name in seen:
            _refuse(file, name, key, "is given twice")
        seen.add(name)
        yield name, row


def _is(value: object, hint: Any) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_is(value, option) for option in typing.get_args(hint))
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint


def _build(cls: type[Row], file: str, name: str, raw: Mapping[str, Any]) -> Row:
    """*raw* as a *cls*; every field must be there (null where allowed), of its type, and counts positive."""
    hints = _hints(cls)
    fields = dataclasses.fields(cls)
    for key in raw:
        if key not in hints:
            _refuse(file, name, str(key), "is not a known field")
    for field in fields:
        if field.name not in raw:
            if field.default is dataclasses.MISSING:
                _refuse(file, name, field.name, "is missing")
            continue
        value, hint = raw[field.name], hints[field.name]
        if not _is(value, hint):
            _refuse(file, name, field.name, f"{value!r} is not of the type {getattr(hint, '__name__', hint)}")
        if type(value) in (int, float) and value < 0:
            _refuse(file, name, field.name, f"{value!r} is negative")
    return cls(**raw)


def _known_source(file: str, name: str, source: str, document: Mapping[str, Any]) -> None:
    for part in source.split("+"):
        if part not in document["sources"]:
            _refuse(file, name, "source", f"{part!r} is not in the file's sources")


def _head(file: str, document: Mapping[str, Any]) -> CatalogFile:
    if not isinstance(document["as_of"], str) or not re.fullmatch(r"\d{4}-\d{2}-\d{2}", document["as_of"]):
        raise CatalogError(f'{file}: as_of must be a day in quotes, such as "2026-08-01"')
    if not isinstance(document["sources"], dict):
        raise CatalogError(f"{file}: sources must map a short name to a text")
    return CatalogFile(document["as_of"], types.MappingProxyType(document["sources"]))


@cache
def models_file() -> CatalogFile:
    """Day and sources of ``models.yaml``."""
    return _head("models.yaml", _read("models.yaml", ("as_of", "sources", "models")))


@cache
def instances_file() -> CatalogFile:
    """Day and sources of ``instances.yaml``."""
    return _head("instances.yaml", _read("instances.yaml", ("as_of", "sources", "accelerators", "instances")))


@cache
def load_models() -> dict[str, ModelRow]:
    """Slug -> row of ``models.yaml``, in file order. Raises ``CatalogError``."""
    file = "models.yaml"
    document = _read(file, ("as_of", "sources", "models"))
    models: dict[str, ModelRow] = {}
    for slug, raw in _rows(file, document, "models", "slug"):
        row = _build(ModelRow, file, slug, raw)
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", slug):
            _refuse(file, slug, "slug", "may hold a-z, 0-9, '.' and '-' only")
        if row.commit is None and not re.fullmatch(rf"{UNPINNED}|[0-9a-f]{{7}}", row.revision):
            _refuse(file, slug, "revision", f"{row.revision!r} is neither 7 hex digits nor {UNPINNED}")
        if row.commit is not None and not re.fullmatch(r"[0-9a-f]{40}", row.commit):
            _refuse(file, slug, "commit", f"{row.commit!r} is not 40 hex digits")
        if row.commit is not None and row.revision != row.commit[:7]:
            _refuse(file, slug, "revision", f"{row.revision!r} is not the first 7 digits of the commit")
        if row.weights_are not in ("file", "index", "parameters"):
            _refuse(file, slug, "weights_are", f"{row.weights_are!r} is none of file, index, parameters")
        if row.attention_heads % row.kv_heads:
            _refuse(
                file,
                slug,
                "kv_heads",
                f"{row.kv_heads} does not divide {row.attention_heads} attention heads",
            )
        _known_source(file, slug, row.source, document)
        models[slug] = row
    return models


@cache
def load_instances() -> dict[str, InstanceRow]:
    """Instance type -> row of ``instances.yaml``, in file order. Raises ``CatalogError``."""
    file = "instances.yaml"
    document = _read(file, ("as_of", "sources", "accelerators", "instances"))
    accelerators: dict[str, AcceleratorRow] = {}
    for name, raw in _rows(file, document, "accelerators", "id"):
        accelerator = _build(AcceleratorRow, file, name, raw)
        if accelerator.kind not in ("gpu", "neuron"):
            _refuse(file, name, "kind", f"{accelerator.kind!r} is neither gpu nor neuron")
        if accelerator.tp_ranks < 1:
            _refuse(file, name, "tp_ranks", "must be at least 1")
        _known_source(file, name, accelerator.source, document)
        accelerators[name] = accelerator
    instances: dict[str, InstanceRow] = {}
    for name, raw in _rows(file, document, "instances", "instance_type"):
        which = raw.get("accelerator")
        if which not in accelerators:
            _refuse(file, name, "accelerator", f"{which!r} is not one of the file's accelerators")
        row = _build(InstanceRow, file, name, {**raw, "accelerator": accelerators[which]})
        if not re.match(rf"{re.escape(row.family)}[.-]", name):
            _refuse(file, name, "family", f"{row.family!r} is not how {name} begins")
        instances[name] = row
    return instances


@cache
def instance_families() -> tuple[str, ...]:
    """The families of ``instances.yaml``, each once, in file order."""
    return tuple(dict.fromkeys(row.family for row in load_instances().values()))


def _texts(file: str, name: str, field: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(x, str) and x for x in value):
        _refuse(file, name, field, "expected a list of at least one text")
    return tuple(value)


def _suite_row(file: str, name: str, raw: object) -> SuiteRow:
    if not isinstance(raw, dict):
        _refuse(file, name, "rows", "expected an object")
    fields = {f.name for f in dataclasses.fields(SuiteRow)}
    for key in (*raw, *sorted(fields)):
        if key not in fields:
            _refuse(file, name, str(key), "is not a known field")
        if key not in raw:
            _refuse(file, name, key, "is missing")
    for key in ("engine", "engine_version"):
        if not isinstance(raw[key], str):
            _refuse(file, name, key, f"{raw[key]!r} is not a text")
    instances = raw["instances"]
    if not isinstance(instances, dict) or not instances:
        _refuse(file, name, "instances", "expected an object of instance type to a list of tp")
    for instance, tps in instances.items():
        if not isinstance(instance, str) or not isinstance(tps, list) or not tps:
            _refuse(file, name, "instances", f"{instance!r} needs a list of at least one tp")
        if not all(type(tp) is int and tp >= 1 for tp in tps):
            _refuse(file, name, "instances", f"{instance!r}: {tps!r} is not a list of whole numbers >= 1")
    if isinstance(raw["deployment"], dict) and "tp" in raw["deployment"]:
        _refuse(file, name, "deployment.tp", "tp is given per instance, under instances")
    try:
        deployment = Deployment.from_dict(raw["deployment"])
    except CellError as error:
        _refuse(file, name, f"deployment.{error.field}", str(error))
    return SuiteRow(
        models=_texts(file, name, "models", raw["models"]),
        instances=tuple((instance, tuple(tps)) for instance, tps in instances.items()),
        engine=raw["engine"],
        engine_version=raw["engine_version"],
        deployment=deployment,
        workloads=_texts(file, name, "workloads", raw["workloads"]),
    )


@cache
def load_suites() -> dict[str, Suite]:
    """Name -> suite of ``suites.yaml``, in file order. Raises ``CatalogError``."""
    file = "suites.yaml"
    document = _read(file, ("suites",))
    models, instances = load_models(), load_instances()
    suites: dict[str, Suite] = {}
    for name, raw in _rows(file, document, "suites", "name"):
        for key in raw:
            if key not in ("name", "description", "rows"):
                _refuse(file, name, str(key), "is not a known field")
        if not isinstance(raw.get("description"), str):
            _refuse(file, name, "description", "is missing or not a text")
        if not isinstance(raw.get("rows"), list) or not raw["rows"]:
            _refuse(file, name, "rows", "expected a list of at least one row")
        rows = tuple(_suite_row(file, f"{name}[{n}]", row) for n, row in enumerate(raw["rows"], 1))
        for n, row in enumerate(rows, 1):
            for slug in row.models:
                if slug not in models:
                    _refuse(file, f"{name}[{n}]", "models", f"{slug!r} is not in models.yaml")
            for instance, _ in row.instances:
                if instance not in instances and instance != "local":
                    _refuse(
                        file,
                        f"{name}[{n}]",
                        "instances",
                        f"{instance!r} is neither in instances.yaml nor local",
                    )
        suites[name] = Suite(name, raw["description"], rows)
    return suites
