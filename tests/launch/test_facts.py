"""What a child inherits of the environment: no secret by name, and none in a URL."""

from __future__ import annotations

import pytest

from accelbench_assets.launch.facts import without_secrets


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_TOKEN", "x"),
        ("ACCELBENCH_DATABASE_URL", "postgresql://db/x"),
        ("DATABASE_URL", "x"),
        ("SENTRY_DSN", "x"),
        ("CATALOG", "postgresql://me:hunter22@db:5432/x"),
        ("CATALOG", "postgresql://me:hun/ter22@db:5432/x"),
        ("CACHE", "redis://:hunter22@cache"),
        ("HTTPS_PROXY", "http://me:hunter22@proxy:3128"),
    ],
)
def test_a_child_inherits_no_secret(name: str, value: str) -> None:
    assert without_secrets({name: value, "PATH": "/bin"}) == {"PATH": "/bin"}
    assert without_secrets({name: value}, (name,)) == {name: value}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTPS_PROXY", "http://proxy:3128"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:8333"),
        ("GIT_URL", "ssh://git@host/x"),
        ("OMP_NUM_THREADS", "1"),
        ("DSN_KIND", "x"),
    ],
)
def test_a_child_inherits_the_rest(name: str, value: str) -> None:
    assert without_secrets({name: value}) == {name: value}
