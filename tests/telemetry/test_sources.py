"""Fetching: an exporter over HTTP, ``nvidia-smi`` and ``neuron-monitor`` played by small programs."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from accelbench_assets.telemetry import sources
from accelbench_assets.telemetry.sources import (
    DcgmExporter,
    NeuronMonitor,
    NvidiaSmi,
    Unread,
    local_sources,
    sources_from,
)

SAMPLES = Path(__file__).parent / "samples"

Serve = Callable[[int, str], str]


@pytest.fixture
def exporter() -> Iterator[Serve]:
    """``serve(status, text) -> address`` of a server that answers every GET so."""
    answer: list[tuple[int, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer[-1]
            self.send_response(status if self.path == "/metrics" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

        def serve(status: int, text: str) -> str:
            answer.append((status, text.encode()))
            return f"127.0.0.1:{server.server_address[1]}"

        yield serve
        server.shutdown()


def program(tmp_path: Path, name: str, body: str) -> str:
    path = tmp_path / name
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_dcgm_exporter(exporter: Serve) -> None:
    address = exporter(200, (SAMPLES / "dcgm.prom").read_text())
    source = DcgmExporter(f"http://{address}/metrics")
    assert source.name == f"dcgm:{address}"
    assert {r.source for r in source.read()} == {source.name}
    assert len(DcgmExporter(address).read()) == len(source.read())
    mine = DcgmExporter(address, devices=["1"]).read()
    assert mine
    assert all("GPU-22222222" in r.labels for r in mine)
    source.close()


def test_dcgm_exporter_that_does_not_answer_says_why(exporter: Serve) -> None:
    address = exporter(503, "starting")
    with pytest.raises(Unread, match="answered HTTP 503"):
        DcgmExporter(f"http://{address}").read()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(Unread, match="refused"):
            DcgmExporter(f"http://127.0.0.1:{port}").read()
    exporter(200, "DCGM_FI_DEV_GPU_UTIL full\n")
    with pytest.raises(Unread, match="could not convert"):
        DcgmExporter(f"http://{address}").read()
    with pytest.raises(ValueError, match="is not the address of a DCGM exporter"):
        DcgmExporter("http:///metrics")


def test_nvidia_smi(tmp_path: Path) -> None:
    source = NvidiaSmi(
        [program(tmp_path, "nvidia-smi", f'echo "$@" > {tmp_path}/asked; cat {SAMPLES}/nvidia_smi.csv')]
    )
    assert {r.name for r in source.read()} >= {"util_pct", "power_w", "throttle_reasons"}
    asked = (tmp_path / "asked").read_text()
    assert "--query-gpu=index,uuid,utilization.gpu,memory.used,power.draw" in asked
    assert "--format=csv,nounits" in asked
    assert "--id" not in asked
    NvidiaSmi([str(tmp_path / "nvidia-smi")], devices=["0", "1"]).read()
    assert "--id=0,1" in (tmp_path / "asked").read_text()


def test_an_old_driver_is_asked_by_its_old_name_from_then_on(tmp_path: Path) -> None:
    body = f"""echo x >> {tmp_path}/calls
case "$1" in
*clocks_event_reasons*) echo 'Field "clocks_event_reasons.active" is not a valid field to query.'; exit 2;;
esac
cat {SAMPLES}/nvidia_smi_units.csv"""
    source = NvidiaSmi([program(tmp_path, "nvidia-smi", body)])
    for _ in range(2):
        assert any(r.name == "throttle_reasons" for r in source.read())
    assert (tmp_path / "calls").read_text().count("x") == 3


def test_nvidia_smi_that_fails_hangs_or_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unread, match="no table"):
        NvidiaSmi([program(tmp_path, "fails", "echo 'NVIDIA-SMI has failed'; exit 9")]).read()
    with pytest.raises(Unread, match=r"longer than 0\.2 s"):
        NvidiaSmi([program(tmp_path, "hangs", "exec sleep 600")], timeout_s=0.2).read()
    with pytest.raises(Unread, match="could not be started"):
        NvidiaSmi([str(tmp_path / "absent")]).read()


def test_neuron_monitor_is_followed_and_ended(tmp_path: Path) -> None:
    body = f"""cp "$2" {tmp_path}/config; echo $$ > {tmp_path}/pid
while true; do head -1 {SAMPLES}/neuron_monitor.jsonl; sleep 0.05; done"""
    source = NeuronMonitor([program(tmp_path, "neuron-monitor", body)])
    try:
        for _ in range(3):
            assert {r.name for r in source.read()} >= {
                "util_pct",
                "memory_used_bytes",
                "ecc_uncorrected_total",
            }
        assert '"period": "1s"' in (tmp_path / "config").read_text()
        pid = int((tmp_path / "pid").read_text())
        assert psutil.pid_exists(pid)
    finally:
        source.close()
    assert not psutil.pid_exists(pid)
    source.close()


def test_neuron_monitor_that_ends_stalls_or_talks_nonsense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sources, "_STALE_S", 60.0
    )  # whichever comes first tells why; only the silent one runs it out
    ended = NeuronMonitor([program(tmp_path, "ends", "exit 1")])
    for _ in range(2):
        with pytest.raises(Unread, match="has ended"):
            ended.read()
    ended.close()
    monkeypatch.setattr(sources, "_STALE_S", 0.3)
    silent = NeuronMonitor([program(tmp_path, "silent", "exec sleep 600")])
    with pytest.raises(Unread, match="reported nothing"):
        silent.read()
    silent.close()
    odd = NeuronMonitor([program(tmp_path, "odd", "echo no devices; exec sleep 600")])
    monkeypatch.setattr(sources, "_STALE_S", 60.0)
    with pytest.raises(Unread, match="no JSON"):
        odd.read()
    odd.close()
    with pytest.raises(Unread, match="could not be started"):
        NeuronMonitor([str(tmp_path / "absent")]).read()


def test_sources_by_name() -> None:
    assert [type(s) for s in sources_from(["dcgm=http://node:9400/metrics", "nvidia-smi", "neuron-monitor"])] == [
        DcgmExporter, NvidiaSmi, NeuronMonitor,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="dcgm=URL, nvidia-smi and neuron-monitor"):
        sources_from(["rocm-smi"])


def test_a_machine_without_accelerators_has_no_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert local_sources() == []
    assert os.environ["PATH"] == str(tmp_path)
