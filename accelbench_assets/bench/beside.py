"""What is read beside a load: the engine's own counters before and after, its pages and the accelerators at 1 Hz.

Belongs here: who reads them (this process, or the generator where only it can reach the servers) and the rows that come
of it. Does not belong here: reading (``telemetry``), judging (``rules``, ``engine_counters``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from accelbench_assets.bench.engine_counters import metric_rows
from accelbench_assets.errors import AccelBenchError
from accelbench_assets.launch.base import Endpoint, EventSink, utc_now
from accelbench_assets.telemetry.sampler import Sampler
from accelbench_assets.telemetry.sources import Source

if TYPE_CHECKING:
    from accelbench_assets.lake.lake import Lake

Rows = list[dict[str, Any]]


class Beside:
    """Enter it around the load; :meth:`collect` after it. Nothing here ever fails a run."""

    def __init__(
        self,
        endpoint: Endpoint,
        run_id: str,
        engine: str,
        work_dir: Path,
        on_event: EventSink,
        sources: Sequence[Source] = (),
    ) -> None:
        self._endpoint, self._run_id, self._work_dir, self._on_event = endpoint, run_id, work_dir, on_event
        self.before: Rows = [] if endpoint.scrape else self._page("before")
        self.after: Rows = []
        self.rows: Rows = []
        self.accelerator_rows: Rows = []
        self.readings = 0
        self.gaps: Mapping[str, int] = {}
        self._sampler = (
            None if endpoint.scrape else Sampler(endpoint.read_metrics, engine, run_id, extra=sources)
        )

    def __enter__(self) -> Beside:
        if self._sampler is not None:
            self._sampler.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sampler is not None:
            self._sampler.__exit__(kind, error, trace)

    def collect(self, lake: Lake, shards: Sequence[Mapping[str, Any]] = ()) -> None:
        """Take what there is after the load: the engine's last page, or what the generator wrote into the lake."""
        if self._sampler is not None:
            self.after = self._page("after")
            sampler = self._sampler
            self.rows, self.accelerator_rows = sampler.rows, sampler.accelerator_rows
            self.readings, self.gaps = sampler.readings, sampler.gaps
            return
        from accelbench_assets.telemetry.scraped import read_scraped

        try:
            found = read_scraped(lake, self._run_id, shards)
        except (AccelBenchError, OSError) as error:
            self._on_event("warning", f"What was read beside the load is lost: {error}", {})
            return
        self.rows, self.accelerator_rows = found.rows, found.accelerator_rows
        self.readings, self.gaps = found.readings, found.gaps
        self.before = self._rows("before", found.first_at, found.first_pages)
        self.after = self._rows("after", found.last_at, found.last_pages)

    def _page(self, moment: str) -> Rows:
        at = utc_now()
        try:
            texts = self._endpoint.read_metrics()
        except (AccelBenchError, OSError) as error:
            self._on_event(
                "warning", f"The engine's metrics could not be read {moment} the load: {error}", {}
            )
            return []
        return self._rows(moment, at, texts)

    def _rows(self, moment: str, at: Any, texts: Mapping[str, str]) -> Rows:
        for index, text in enumerate(texts.values()):
            (self._work_dir / f"metrics-{moment}-{index}.prom").write_text(text, encoding="utf-8")
        return metric_rows(self._run_id, at, texts)
