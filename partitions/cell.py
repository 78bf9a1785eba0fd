"""The cell: one thing worth measuring, its readable key for ever, and its short id.

Belongs here: ``CellKey``, ``BenchmarkCell``, families, canonical JSON and hashes (``Deployment`` and
``CellError`` come from ``deployment``). Does not belong here: which cells exist (``matrix``), facts about
models and instances (``catalog``).

Key: ``model@revision~instance~engine-version~label-digest~workload@v``. It is a partition key, a file name
and a column, so it is lower case, at most 250 characters of ``[a-z0-9._+@~-]``, and never holds ``...`` or
``|``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from partitions.deployment import (
    CellError,
    Deployment,
    canonical_text,
    fail,
    known_fields,
    match,
    short_hash,
)

__all__ = ["BenchmarkCell", "CellError", "CellKey", "Deployment", "families", "family_of"]

MAX_KEY_LENGTH = 250
MOVING_REVISIONS = ("main", "master", "head", "latest")
OWN_FAMILIES = ("local", "endpoint")

_SLUG = re.compile(r"[a-z0-9][a-z0-9.-]*")
_REVISION = re.compile(r"[0-9a-f]{7,40}|[a-z][a-z0-9]{1,39}")
_ENGINE = re.compile(r"[a-z][a-z0-9]*")
_VERSION = re.compile(r"[a-z0-9][a-z0-9._+-]*")
_LABEL = re.compile(r"tp[1-9][0-9]*(-[a-z0-9][a-z0-9_]*)+")
_DIGEST = re.compile(r"[0-9a-f]{8}")
_WORKLOAD = re.compile(r"[a-z0-9][a-z0-9._-]*@[1-9][0-9]*")
_OWN_INSTANCE = re.compile(r"(local|endpoint)-[0-9a-f]{8,40}")
_EC2_INSTANCE = re.compile(r"([a-z]+[0-9]+[a-z]*)(-[a-z0-9]+)?\.[a-z0-9][a-z0-9-]*")


def families() -> tuple[str, ...]:
    """All families in stable order: those of ``instances.yaml`` in file order, then ``local`` and
    ``endpoint``.
    """
    from partitions.catalog import instance_families

    return (*instance_families(), *OWN_FAMILIES)


def family_of(instance: str) -> str:
    """The family of an instance: ``g6e.xlarge`` -> ``g6e``, ``p6-b200.48xlarge`` -> ``p6``,
    ``local-1a2b3c4d`` -> ``local``.

    Sizes need no row in ``instances.yaml``, families do. Raises ``CellError`` (field ``instance``) for
    anything else.
    """
    if isinstance(instance, str):
        if own := _OWN_INSTANCE.fullmatch(instance):
            return own[1]
        if (ec2 := _EC2_INSTANCE.fullmatch(instance)) and ec2[1] in families():
            return ec2[1]
    fail(
        "instance",
        f"{instance!r} is neither local-<8 hex>, endpoint-<8 hex> nor of a family in instances.yaml",
    )


@dataclass(frozen=True, slots=True)
class CellKey:
    """The parsed text key; every field is checked on construction (``CellError`` names it)."""

    model: str
    revision: str
    instance: str
    engine: str
    engine_version: str
    label: str
    digest: str
    workload: str

    def __post_init__(self) -> None:
        match("model", self.model, _SLUG, "a model slug ([a-z0-9][a-z0-9.-]*)")
        match("revision", self.revision, _REVISION, "7 to 40 hex digits or a word such as unstated")
        if self.revision in MOVING_REVISIONS:
            fail("revision", f"{self.revision!r} moves with time; give the commit")
        family_of(self.instance)
        match("engine", self.engine, _ENGINE, "an engine name ([a-z][a-z0-9]*)")
        match("engine_version", self.engine_version, _VERSION, "a lower-case version ([a-z0-9][a-z0-9._+-]*)")
        match("label", self.label, _LABEL, "a deployment label such as tp1-bf16")
        match("digest", self.digest, _DIGEST, "8 hex digits")
        match("workload", self.workload, _WORKLOAD, "a workload id such as fixed.1k1k@1")
        if len(self.text) > MAX_KEY_LENGTH:
            fail("key", f"is {len(self.text)} characters long, more than {MAX_KEY_LENGTH}")

    @property
    def family(self) -> str:
        """``local``, ``endpoint`` or the EC2 family."""
        return family_of(self.instance)

    @property
    def text(self) -> str:
        """The key as text."""
        return (
            f"{self.model}@{self.revision}~{self.instance}~{self.engine}-{self.engine_version}"
            f"~{self.label}-{self.digest}~{self.workload}"
        )

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> CellKey:
        """Read a key; ``CellKey.parse(key.text) == key``. Raises ``CellError`` naming the field that does not
        fit.
        """
        parts = text.split("~") if isinstance(text, str) else []
        if len(parts) != 5:
            fail(
                "key",
                f"{text!r} has not the form model@revision~instance~engine-version~label-digest~workload@v",
            )
        subject, instance, served, deployed, workload = parts
        model, at, revision = subject.partition("@")
        if not at:
            fail("revision", f"{subject!r} has no @revision after the model")
        engine, dash, version = served.partition("-")
        if not dash:
            fail("engine_version", f"{served!r} has no -version after the engine")
        label, dash, digest = deployed.rpartition("-")
        if not dash:
            fail("digest", f"{deployed!r} has no -digest after the label")
        return cls(model, revision, instance, engine, version, label, digest, workload)


@dataclass(frozen=True, slots=True)
class BenchmarkCell:
    """A key and the deployment its label and digest stand for, consistent by construction."""

    model: str
    revision: str
    instance: str
    engine: str
    engine_version: str
    deployment: Deployment
    workload: str

    def __post_init__(self) -> None:
        if not isinstance(self.deployment, Deployment):
            fail("deployment", f"expected a Deployment, got {type(self.deployment).__name__}")
        _ = self.key  # checks every field

    @property
    def key(self) -> CellKey:
        """The parsed key."""
        d = self.deployment
        return CellKey(
            self.model,
            self.revision,
            self.instance,
            self.engine,
            self.engine_version,
            d.label,
            d.digest,
            self.workload,
        )

    @property
    def key_text(self) -> str:
        """The key as text: the partition key."""
        return self.key.text

    @property
    def family(self) -> str:
        """``local``, ``endpoint`` or the EC2 family."""
        return family_of(self.instance)

    @property
    def cell_id(self) -> str:
        """12 hex of the SHA-256 of the canonical JSON: for labels and paths."""
        return short_hash(self.canonical_json(), 12)

    def canonical_json(self) -> str:
        """Canonical JSON of the cell, deployment defaults left out."""
        return canonical_text({**self.to_dict(), "deployment": self.deployment.canonical()})

    def to_dict(self) -> dict[str, Any]:
        """Every field, the deployment as an object."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**fields, "deployment": self.deployment.to_dict()}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> BenchmarkCell:
        """Inverse of :meth:`to_dict`; raises ``CellError`` naming a missing, unknown or invalid field."""
        fields = known_fields(document, cls, "cell")
        for f in dataclasses.fields(cls):
            if f.name not in fields:
                fail(f.name, "is missing")
        return cls(**{**fields, "deployment": Deployment.from_dict(fields["deployment"])})
