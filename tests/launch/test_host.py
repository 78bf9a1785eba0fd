"""Instance names are stable, hold no secret, and are valid in cell keys."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelbench_assets.launch.host import (
    describe_host,
    endpoint_instance,
    host_fingerprint,
    host_label,
    local_instance,
    server_root,
)
from partitions.cell import family_of


def test_the_fingerprint_is_the_same_in_every_process() -> None:
    code = "from accelbench_assets.launch.host import local_instance; print(local_instance())"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=True
    ).stdout
    assert said.strip() == local_instance() == f"local-{host_fingerprint()}"
    assert family_of(local_instance()) == "local"


def test_the_description_is_of_this_machine() -> None:
    host = describe_host()
    assert host["logical_cores"] == psutil.cpu_count()
    assert host["memory_gib"] == pytest.approx(psutil.virtual_memory().total / 2**30, abs=0.2)
    assert host["cpu_model"] in host_label()


@pytest.mark.parametrize(
    "url",
    [
        "http://h:8000",
        "http://h:8000/",
        "http://h:8000/v1",
        "http://H:8000/v1/",
        "http://user:pw@h:8000/v1?key=x",
    ],
)
def test_one_server_has_one_name(url: str) -> None:
    assert server_root(url) == "http://h:8000"
    assert endpoint_instance(url) == endpoint_instance("http://h:8000")
    assert family_of(endpoint_instance(url)) == "endpoint"


@settings(deadline=None)
@given(st.integers(1, 65535), st.integers(1, 65535))
def test_different_ports_are_different_servers(one: int, other: int) -> None:
    same = endpoint_instance(f"https://a.example:{one}") == endpoint_instance(f"https://a.example:{other}")
    assert same == (one == other)
    assert endpoint_instance(f"https://a.example:{one}/tenant") != endpoint_instance(
        f"https://a.example:{one}"
    )
