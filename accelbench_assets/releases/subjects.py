"""What can be followed, and what a new value of it changes in a cell.

Belongs here: one subject each for vLLM, the Neuron SDK and a model's revision: which value is newer, which cells it
concerns, why a cell is left out.
Does not belong here: looking values up (one module each), caps and the cursor (``follow``).

A subject is known by a name that survives in the cursor: ``vllm``, ``neuron``, ``model:<slug>``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

from packaging.version import InvalidVersion, Version

from accelbench_assets.errors import UsageError
from accelbench_assets.releases import neuron
from partitions.catalog import load_instances, load_models, load_suites
from partitions.cell import OWN_FAMILIES, BenchmarkCell
from partitions.matrix import explain

MODEL_PREFIX = "model:"
REVISION_DIGITS = 7
OWN_MACHINE = "not a rented machine: what is installed there decides"


class Variant(NamedTuple):
    """What the new cell has in place of its base's."""

    revision: str
    engine_version: str


class Subject(Protocol):
    """One thing that has releases."""

    @property
    def name(self) -> str:
        """What it is called in a cursor."""

    def title(self, value: str) -> str:
        """*value* for people: ``vLLM 0.34.0``."""

    def newer(self, value: str, than: str) -> bool:
        """Whether *value* is to be followed when *than* was known."""

    def variant(self, cell: BenchmarkCell, value: str) -> Variant | str | None:
        """What changes in *cell*, or why nothing does, or ``None`` if the subject does not concern it."""


@lru_cache(maxsize=256)
def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


@lru_cache(maxsize=256)
def _kind(instance: str) -> str | None:
    row = load_instances().get(instance)
    return None if row is None else row.accelerator_kind


class Vllm:
    """vLLM on GPUs; values are versions."""

    name = "vllm"

    def title(self, value: str) -> str:
        """``vLLM 0.34.0``."""
        return f"vLLM {value}"

    def newer(self, value: str, than: str) -> bool:
        """In the order of PEP 440; anything is newer than what is no version."""
        this, other = _version(value), _version(than)
        return this is not None and (other is None or this > other)

    def variant(self, cell: BenchmarkCell, value: str) -> Variant | str | None:
        """A vLLM cell of a GPU instance with the version in place of its own."""
        if cell.engine != "vllm" or _kind(cell.instance) == "neuron":
            return None
        if cell.family in OWN_FAMILIES:
            return OWN_MACHINE
        if not self.newer(value, cell.engine_version):
            return f"the suite has vLLM {cell.engine_version} already"
        return Variant(cell.revision, value)


class NeuronSdk:
    """vLLM on Neuron; values are engine versions such as ``0.24.0-neuron2.32``."""

    name = "neuron"

    def title(self, value: str) -> str:
        """``vLLM 0.24.0 for Neuron SDK 2.32``."""
        return f"vLLM {value.replace('-neuron', ' for Neuron SDK ')}"

    def newer(self, value: str, than: str) -> bool:
        """By vLLM's version, then the SDK's."""
        return neuron.is_newer(value, than)

    def variant(self, cell: BenchmarkCell, value: str) -> Variant | str | None:
        """A vLLM cell of a Neuron instance with the version in place of its own."""
        if cell.engine != "vllm" or _kind(cell.instance) != "neuron":
            return None
        if reason := neuron.why_not_on(cell.family, value):
            return reason
        if not self.newer(value, cell.engine_version):
            return f"the suite has {self.title(cell.engine_version)} already"
        return Variant(cell.revision, value)


@dataclass(frozen=True)
class ModelRevision:
    """One model of the catalog; values are commits of 40 hex digits. Commits have no order: another one is newer."""

    slug: str

    @property
    def name(self) -> str:
        """``model:<slug>``."""
        return f"{MODEL_PREFIX}{self.slug}"

    def title(self, value: str) -> str:
        """``llama-3.1-8b-instruct at 0e9e39f``."""
        return f"{self.slug} at {value[:REVISION_DIGITS]}"

    def newer(self, value: str, than: str) -> bool:
        """Whether it is another commit."""
        return value != than

    def variant(self, cell: BenchmarkCell, value: str) -> Variant | str | None:
        """A cell of the model with the first 7 digits of the commit as its revision."""
        if cell.model != self.slug:
            return None
        if cell.family in OWN_FAMILIES:
            return OWN_MACHINE
        if value.startswith(cell.revision):
            return f"the suite has {self.title(value)} already"
        return Variant(value[:REVISION_DIGITS], cell.engine_version)


VLLM = Vllm()
NEURON = NeuronSdk()
_SUBJECTS: dict[str, Subject] = {one.name: one for one in (VLLM, NEURON)}


def subject(name: str) -> Subject | None:
    """The subject of a name in a cursor; ``None`` for one this version does not know."""
    if name.startswith(MODEL_PREFIX):
        return ModelRevision(name.removeprefix(MODEL_PREFIX))
    return _SUBJECTS.get(name)


def tracked_cells(suites: Iterable[str]) -> tuple[BenchmarkCell, ...]:
    """The cells of the tracked suites, in the order given, each once; cells only this machine can name are left out.

    Raises ``UsageError`` for a suite that does not exist.
    """
    known = load_suites()
    found: dict[BenchmarkCell, None] = {}
    for name in suites:
        if name not in known:
            raise UsageError(f"Setting watch.suites: {name!r} is not one of {', '.join(sorted(known))}.")
        found.update((one.cell, None) for one in explain(known[name]) if one.cell is not None)
    return tuple(found)


def tracked_models(cells: Iterable[BenchmarkCell]) -> dict[str, str]:
    """Slug -> id on the hub of every model in *cells* whose revision is a commit of the hub, or not pinned yet."""
    rows = load_models()
    slugs = dict.fromkeys(cell.model for cell in cells)
    return {
        slug: rows[slug].model_id
        for slug in slugs
        if slug in rows and (rows[slug].commit is not None or rows[slug].revision == "unpinned")
    }
