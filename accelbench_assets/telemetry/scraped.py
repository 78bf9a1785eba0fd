"""What the generator read beside a load that only it could reach: its files in the lake, as rows like the sampler's.

Belongs here: reading ``scrape-<n>.jsonl.gz`` of a run's shards, the pages before and after the load, what is missing of
them, and the page of the Neuron exporter, which no other source reads. Does not belong here: reading pages over a
network and the files' form (``loadgen.scrape``), the other parsers (``prometheus``, ``accelerators``), verdicts.

``neuron-monitor-prometheus.py`` shows other names than ``neuron-monitor`` prints: ``neuroncore_utilization_ratio`` (0
to 1, label ``neuroncore``), ``neuroncore_memory_usage_<part>`` (bytes), ``hardware_ecc_events_total`` (labels
``neuron_device_index``, ``event_type``), and cores a device in ``neuron_hardware_info``. Those are from its source and
from pages of Inf1 and Trn1 machines; no page of Inf2 or Trn2 was at hand, and it shows neither power nor energy. It
renews its page every five seconds by default, so its readings repeat.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from accelbench_assets.errors import LakeError
from accelbench_assets.lake.layout import incoming_folder
from accelbench_assets.lake.storage import MissingKeyError
from accelbench_assets.telemetry.accelerators import parse_dcgm
from accelbench_assets.telemetry.prometheus import OWN_NAME, Reading, engine_readings, labels_json, samples
from accelbench_assets.telemetry.sampler import MAX_ROWS
from loadgen.scrape import texts

if TYPE_CHECKING:
    import pyarrow as pa

    from accelbench_assets.lake.lake import Lake

_NS = 1_000_000_000
_UTIL, _ECC, _INFO = "neuroncore_utilization_ratio", "hardware_ecc_events_total", "neuron_hardware_info"
_MEMORY = tuple(
    f"neuroncore_memory_usage_{part}"
    for part in ("constants", "model_code", "model_shared_scratchpad", "runtime_memory", "tensors")
)


class Scraped:
    """Rows, counts and pages of one run; empty where nothing was scraped.

    ``rows`` and ``accelerator_rows`` are as the sampler's. ``first_pages`` and ``last_pages`` are the engines' pages by
    replica, from before any shard sent a request and from after all had their last answer; a replica of which a shard
    could not get one is left out. ``first_at`` and ``last_at`` are when the first and last of them were read.
    """

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.rows: list[dict[str, Any]] = []
        self.accelerator_rows: list[dict[str, Any]] = []
        self.readings = 0
        self.gaps: Counter[str] = Counter()
        self.first_pages: dict[str, str] = {}
        self.last_pages: dict[str, str] = {}
        self.first_at: datetime | None = None
        self.last_at: datetime | None = None

    def table(self, schema: pa.Schema, *, accelerators: bool = False) -> pa.Table:
        """The rows as a table of *schema* (``engine_metrics`` or ``accelerator_metrics``)."""
        import pyarrow as pa

        return pa.Table.from_pylist(self.accelerator_rows if accelerators else self.rows, schema=schema)


def read_scraped(lake: Lake, run_id: str, shards: Sequence[Mapping[str, Any]] = ()) -> Scraped:
    """What the *shards* (``shard.json`` documents; the run's own when left out) list in ``scrapes``.

    A file that is lost, altered or broken is a gap with its reason, and what could be read of it counts. A target that
    was never there is one too: its readings are none and its gaps say why. Raises ``LakeError`` when the lake itself
    cannot be read.
    """
    found = Scraped(run_id)
    frames: dict[str, list[dict[str, tuple[int, str]]]] = {}
    seen: set[tuple[str, str]] = set()
    for shard in sorted(shards or lake.shards(run_id), key=lambda one: int(one["shard"])):
        for entry in shard.get("scrapes") or ():
            target = _Target(entry, found)
            pages = target.pages(lake, f"{incoming_folder(run_id)}/shard={shard['shard']:03d}")
            address = entry["kind"], entry["url"]
            if shard["shard"] == 0 and address not in seen:  # two replicas on one node share an exporter
                seen.add(address)
                target.take(pages, MAX_ROWS // max(1, len(shard["scrapes"])))
            else:
                target.skim(pages)
            if entry["kind"] == "engine":
                frames.setdefault(entry["replica_id"], []).append(target.ends)
    moments: dict[str, list[int]] = {"before": [], "after": []}
    for replica, of_shards in frames.items():
        for when, kept, choose in (
            ("before", found.first_pages, min),
            ("after", found.last_pages, max),
        ):
            if all(when in one for one in of_shards):
                at, kept[replica] = choose(one[when] for one in of_shards)
                moments[when].append(at)
    found.first_at = _moment(min(moments["before"])) if moments["before"] else None
    found.last_at = _moment(max(moments["after"])) if moments["after"] else None
    return found


class _Target:
    """One entry of ``scrapes``."""

    def __init__(self, entry: Mapping[str, Any], found: Scraped) -> None:
        self._entry, self._found = entry, found
        self.kind = entry["kind"]
        netloc = urlsplit(entry["url"]).netloc
        self.source = entry["replica_id"] if self.kind == "engine" else f"{self.kind}:{netloc}"
        # The pages before and after the load, and when they were read.
        self.ends: dict[str, tuple[int, str]] = {}
        self._lost: Counter[str] = Counter()

    def pages(self, lake: Lake, folder: str) -> Iterator[tuple[int, str]]:
        """``(at_ns, page)`` of every reading in its file; fills ``ends``."""
        name = self._entry["name"]
        if name is None:
            return
        try:
            data = lake.storage.read(f"{folder}/{name}")
        except MissingKeyError:
            self._lost["its file is missing in the lake"] += 1
            return
        except LakeError as error:
            self._lost[f"its file cannot be read: {error}"] += 1
            return
        if hashlib.sha256(data).hexdigest() != self._entry["sha256"]:
            self._lost["its file was altered"] += 1
            return
        try:
            for reading, text in texts(_lines(data)):
                if reading["when"] != "beside":
                    self.ends[reading["when"]] = reading["at"], text
                yield reading["at"], text
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
            self._lost[f"its file is broken ({type(error).__name__})"] += 1

    def skim(self, pages: Iterable[tuple[int, str]]) -> None:
        """Only its ends, and what is lost of them."""
        for _ in pages:
            pass
        self._tell(self._lost)

    def take(self, pages: Iterable[tuple[int, str]], max_rows: int) -> None:
        """Add its rows, readings and gaps; beyond *max_rows* every second reading, then every fourth, is left out."""
        found, rows, readings = self._found, list[tuple[int, Reading]](), 0
        gaps = Counter({str(reason): int(count) for reason, count in self._entry["gaps"].items()})
        every = 1
        for index, (at, text) in enumerate(pages):
            if index % every:
                continue
            try:
                values = self._parse(text)
            except ValueError as error:
                gaps[f"its page cannot be read: {error}"[:200]] += 1
                continue
            if not values:
                gaps["it shows no metrics that are known"] += 1
                continue
            readings += 1
            rows += [(at, value) for value in values]
            if len(rows) > max_rows:
                every *= 2
                kept = {one for n, one in enumerate(dict.fromkeys(at for at, _ in rows)) if n % 2 == 0}
                rows = [row for row in rows if row[0] in kept]
        found.readings += readings
        if readings or self.kind != "engine":  # an engine without a known page misses no reading of it
            self._tell(gaps)
        self._tell(self._lost)
        into = found.rows if self.kind == "engine" else found.accelerator_rows
        into += [
            {
                "run_id": found.run_id,
                "at": _moment(at),
                "source": value.source,
                "name": value.name,
                "labels": value.labels,
                "value": value.value,
            }
            for at, value in rows
        ]

    def _tell(self, gaps: Mapping[str, int]) -> None:
        self._found.gaps.update({f"{self.source}: {reason}": count for reason, count in gaps.items()})

    def _parse(self, text: str) -> list[Reading]:
        if self.kind == "engine":
            return engine_readings(self.source, text)
        return (parse_dcgm if self.kind == "dcgm" else parse_neuron_page)(self.source, text)


def parse_neuron_page(source: str, text: str) -> list[Reading]:
    """Readings of a page of ``neuron-monitor-prometheus.py``, named and divided as those of ``neuron-monitor``.

    Utilisation is of NeuronCores (device ``nc0`` …), memory of Neuron devices (``nd0`` …; the sum over applications and
    over what its cores hold), ECC counts of Neuron devices, DRAM and SRAM together. Raises ``ValueError``.
    """
    values = samples(text, frozenset((_UTIL, _ECC, _INFO, *_MEMORY)))
    info = next((dict(pairs) for pairs in values.get(_INFO, ())), {})
    per_device = max(1, int(info.get("neuroncore_per_device_count", "1")))
    figures: defaultdict[tuple[str, str, str], float] = defaultdict(float)
    for pairs, value in values.get(_UTIL, {}).items():
        figures["util_pct", _UTIL, f"nc{dict(pairs).get('neuroncore', '0')}"] += value * 100.0
    for own in _MEMORY:
        for pairs, value in values.get(own, {}).items():
            device = f"nd{int(dict(pairs).get('neuroncore', '0')) // per_device}"
            figures["memory_used_bytes", "neuroncore_memory_usage", device] += value
    for pairs, value in values.get(_ECC, {}).items():
        labels = dict(pairs)
        kind = labels.get("event_type", "").rpartition("_ecc_")[2]
        if kind in ("corrected", "uncorrected"):
            figures[f"ecc_{kind}_total", _ECC, f"nd{labels.get('neuron_device_index', '0')}"] += value
    return [
        Reading(source, name, labels_json({OWN_NAME: own, "device": device}), value)
        for (name, own, device), value in figures.items()
    ]


def _lines(data: bytes) -> Iterator[dict[str, Any]]:
    with gzip.open(io.BytesIO(data), "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _moment(at_ns: int) -> datetime:
    return datetime.fromtimestamp(at_ns // _NS, UTC).replace(microsecond=at_ns % _NS // 1000)
