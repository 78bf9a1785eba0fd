"""What is known of a cell without running it: whether its deployment fits, how fast it may be, whether it is sold.

Belongs here: one row of ``cell_estimates`` of the facts handed in, and the hash of what it was made of. Pure.
Does not belong here: choosing a better deployment (``fit``, ``recommend``), lakes and prices (``grid``), what a
workload asks (``shape``), what was measured.

A row is about exactly the cell's own ranks, precision, context and replicas. In this order: ``not_sold`` where a source
says so; ``does_not_fit`` where the engine cannot start even if it takes the least memory it is known to take, or a
request is longer than the context; ``estimated`` with intervals; ``unknown`` with the reason there is no figure. Rates
and concurrency are of the whole cell, times of one request, the KV cache of one replica.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from accelbench_assets.sizing import kv
from accelbench_assets.sizing.calibrate import NOTHING_MEASURED, Calibration
from accelbench_assets.sizing.deployed import Served, Unsized, served
from accelbench_assets.sizing.estimate import LINKS_NOT_COUNTED, Estimate, Interval, estimate, within
from accelbench_assets.sizing.explain import figure
from accelbench_assets.sizing.fit import ENGINE
from accelbench_assets.sizing.inputs import inputs_sha256
from accelbench_assets.sizing.priors import Priors
from accelbench_assets.sizing.roofline import Replica, replica
from accelbench_assets.sizing.shape import Shape, shape_of
from partitions.catalog import load_instances
from partitions.cell import OWN_FAMILIES, BenchmarkCell


@dataclass(frozen=True, slots=True)
class Quote:
    """What a region's sources say of an instance type: USD an hour of one on demand or why there is no price, and, if a
    source says that it is not sold there at all, that sentence.
    """

    usd_per_hour: Decimal | None
    missing_reason: str | None
    not_sold: str | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    state: str
    reason: str
    figures: Mapping[str, Any]


class CellSizer:
    """Rows for cells of one *region*; *quotes* are by instance type. Cells that differ only in their workload share the
    arithmetic of their deployment.
    """

    def __init__(
        self, region: str, quotes: Mapping[str, Quote], calibration: Calibration = NOTHING_MEASURED
    ) -> None:
        self.region = region
        self._quotes = quotes
        self._calibration = calibration
        self._served: dict[tuple[Any, ...], Served | Unsized] = {}
        self._taught: dict[str, str] = {}

    @staticmethod
    def concerns(family: str) -> bool:
        """Whether cells of *family* get rows: those of this machine and of endpoints do not."""
        return family not in OWN_FAMILIES

    def inputs_sha256(self, cell_id: str, document: Mapping[str, Any]) -> str:
        """SHA-256 of all that the row of a cell is made of: equal hashes, equal rows (but for ``as_of``). *document* is
        the cell as ``BenchmarkCell.to_dict`` has it; reading thousands of them so is faster than as cells.
        """
        instance = load_instances().get(document["instance"])
        quote = self._quote(document["instance"])
        said = (str(quote.usd_per_hour), quote.missing_reason, quote.not_sold)
        lessons = self._lessons(instance.accelerator.id) if instance else ""
        return inputs_sha256(cell_id, document, self.region, said, lessons)

    def row(self, cell: BenchmarkCell, at: datetime) -> dict[str, Any]:
        """The cell's row of ``cell_estimates``, dated *at*; its family must be one that :meth:`concerns` admits."""
        answer, cell_id = self._answer(cell), cell.cell_id
        quote, count = self._quote(cell.instance), cell.deployment.replicas
        return {
            "cell_id": cell_id,
            "as_of": at,
            "region": self.region,
            "state": answer.state,
            "reason": answer.reason,
            "instances": count,
            **answer.figures,
            "usd_per_hour": None if quote.usd_per_hour is None else quote.usd_per_hour * count,
            "price_missing_reason": quote.missing_reason,
            "inputs_sha256": self.inputs_sha256(cell_id, cell.to_dict()),
        }

    def _quote(self, instance_type: str) -> Quote:
        return self._quotes.get(instance_type) or Quote(
            None, f"no on-demand price of {instance_type} in {self.region} is known"
        )

    def _lessons(self, chip: str) -> str:
        """What was measured on *chip*, as text."""
        if chip not in self._taught:
            known = self._calibration.posteriors
            self._taught[chip] = repr(sorted((k, p) for k, p in known.items() if k[:2] == (ENGINE, chip)))
        return self._taught[chip]

    def _answer(self, cell: BenchmarkCell) -> _Answer:
        if text := self._quote(cell.instance).not_sold:
            return _Answer("not_sold", text, {})
        figures: dict[str, Any] = {}
        try:
            reason = self._estimate(cell, figures)
        except Unsized as stop:
            if stop.state == "does_not_fit":
                return _Answer(stop.state, f"does not fit {cell.instance}: {stop}", figures)
            tokens = figures.get("kv_cache_tokens")
            fits = "" if tokens is None else f"fits, with a KV cache of {tokens:,} tokens; "
            return _Answer("unknown", f"{fits}not estimated: {stop}", figures)
        return _Answer("estimated", reason, figures)

    def _estimate(self, cell: BenchmarkCell, figures: dict[str, Any]) -> str:
        """Fill *figures* and say them in a sentence. Raises ``Unsized`` where the state is another."""
        one = self._replica(cell)
        chip, notes = one.instance.accelerator, list(one.notes)
        figures["kv_cache_tokens"] = one.pool.tokens
        shape = shape_of(cell.workload, prefix_caching=cell.deployment.prefix_caching)
        if shape is None:
            raise Unsized(
                "unknown", f"{cell.workload} is not a packaged workload, so its lengths are not known"
            )
        if shape.longest > one.pool.max_model_len:
            raise Unsized(
                "does_not_fit",
                f"a request of {cell.workload} takes up to {shape.longest_text}, and the context served is "
                f"{one.pool.max_model_len:,}",
            )
        if shape.untold:
            raise Unsized("unknown", shape.untold)
        rates = replica(one.model, one.weights, chip, cell.deployment.tp, cell.deployment.kv_cache_dtype)
        if rates is None or rates.flops is None:
            raise Unsized("unknown", f"{chip.id} has no published 16-bit rate")
        priors = self._calibration.priors(chip, ENGINE, one.weights.precision)
        found = _at_objective(rates, priors, _most(one, shape, cell.deployment.replicas), shape, notes)
        figures |= _figures(found, shape, priors, cell.deployment.replicas)
        if not found.links_counted:
            notes.append(LINKS_NOT_COUNTED)
        if cell.revision != one.model.revision:
            notes.append(f"Sized by the facts of revision {one.model.revision}.")
        return _sentence(figures, priors, notes)

    def _replica(self, cell: BenchmarkCell) -> Served:
        key = (cell.model, cell.instance, cell.engine, cell.engine_version, cell.deployment)
        if key not in self._served:
            try:
                self._served[key] = served(cell)
            except Unsized as stop:
                self._served[key] = stop
        found = self._served[key]
        if isinstance(found, Unsized):
            raise Unsized(found.state, str(found))
        return found


def _most(one: Served, shape: Shape, replicas: int) -> int:
    """Requests that a replica may have at once: by memory, by the scheduler, and as many as the workload sends."""
    each = kv.blocks_per_sequence(one.model, math.ceil(shape.isl + shape.osl / 2))
    most = min(one.pool.blocks // each, one.limits.sequences)
    if shape.at_most is not None:
        most = min(most, math.ceil(shape.at_most / replicas))
    return max(1, most)


def _at_objective(one: Replica, priors: Priors, most: int, shape: Shape, notes: list[str]) -> Estimate:
    """The estimate at the highest concurrency whose middle meets the objective, or at 1 with a note."""
    batch = within(
        one,
        priors,
        most,
        shape.isl,
        shape.osl,
        ttft_ms=shape.ttft_ms,
        tpot_ms=shape.tpot_ms,
        e2e_ms=shape.e2e_ms,
    )
    if batch == 0:
        notes.append("One request alone is already estimated to miss the workload's objective.")
    return estimate(one, priors, max(1, batch), shape.isl, shape.osl)


def _three(name: str, found: Interval | None, times: int = 1) -> dict[str, Any]:
    if found is None:
        return {}
    return {name: found.middle * times, f"{name}_low": found.low * times, f"{name}_high": found.high * times}


def _figures(found: Estimate, shape: Shape, priors: Priors, replicas: int) -> dict[str, Any]:
    decoded = shape.osl > 1  # a single output token has no time between tokens
    return {
        "concurrency": found.concurrency * replicas,
        "input_tokens_mean": shape.isl,
        "output_tokens_mean": shape.osl,
        **_three("requests_per_s", found.requests_per_s, replicas),
        **_three("output_tokens_per_s", found.output_tok_s, replicas),
        **_three("ttft_ms", found.ttft_ms),
        **_three("tpot_ms", found.tpot_ms if decoded else None),
        "measured_runs": priors.runs,
    }


def _sentence(figures: Mapping[str, Any], priors: Priors, notes: list[str]) -> str:
    def span(name: str) -> str:
        return (
            f"{figure(figures[name])} ({figure(figures[name + '_low'])} to {figure(figures[name + '_high'])})"
        )

    basis = f"{priors.runs} measured runs behind it" if priors.runs else "priors, nothing measured"
    parts = [f"{span('requests_per_s')} requests/s at concurrency {figures['concurrency']:,}"]
    parts.append(f"TTFT {span('ttft_ms')} ms")
    if "tpot_ms" in figures:
        parts.append(f"{span('tpot_ms')} ms an output token")
    parts.append(f"KV cache {figures['kv_cache_tokens']:,} tokens")
    return ". ".join(
        [f"estimated, not measured: {', '.join(parts)}; {basis}", *(n.rstrip(".") for n in notes)]
    )
