"""Secrets leave no trace in text, URLs, headers and environments."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelbench_assets.scrub import (
    MASK,
    looks_secret,
    scrub,
    scrub_env,
    scrub_headers,
    url_without_credentials,
)

CANARY = "hf_CANARYcanaryCANARY0123456789"


@pytest.mark.parametrize(
    "text",
    [
        f"token {CANARY} refused",
        f"Authorization: Bearer {CANARY}",
        f"postgresql://user:{CANARY}@db/x",
        f"password={CANARY} host=x",
        f"api_key: {CANARY}",
        "aws AKIAABCDEFGHIJKLMNOP said no",
    ],
)
def test_secret_looking_text_is_masked(text: str) -> None:
    clean = scrub(text)
    assert CANARY not in clean
    assert "AKIAABCDEFGHIJKLMNOP" not in clean
    assert MASK in clean


@given(
    st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789", min_size=8, max_size=40), st.text(), st.text()
)
def test_a_given_secret_never_survives(secret: str, before: str, after: str) -> None:
    assert secret not in scrub(f"{before} {secret} {after}", [secret]).replace(MASK, "")


def test_secrets_of_the_environment_never_survive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_ENDPOINT_API_KEY", "plain-looking-value")
    assert "plain-looking-value" not in scrub("server said: plain-looking-value is wrong")


def test_a_short_secret_garbles_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "ollama")
    assert scrub("ollama 1.0 answered", ["1.0"]) == "ollama 1.0 answered"
    monkeypatch.setenv("OPENAI_API_KEY", "ollama12")
    assert scrub("ollama12 answered") == f"{MASK} answered"


def test_environment_and_headers_keep_names_and_lose_values() -> None:
    assert scrub_env({"HF_TOKEN": CANARY, "OMP_NUM_THREADS": "1"}) == {
        "HF_TOKEN": MASK,
        "OMP_NUM_THREADS": "1",
    }
    assert scrub_headers({"Authorization": "x", "x-team": "a"}) == {"Authorization": MASK, "x-team": "a"}


def test_urls_lose_credentials_query_and_fragment() -> None:
    assert url_without_credentials("https://u:p@h:8443/v1/?key=s#f") == "https://h:8443/v1"
    assert url_without_credentials("http://[::1]:8000/") == "http://[::1]:8000"


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "x-api-key", "API_KEY", "AWS_SECRET_ACCESS_KEY", "Authorization", "PGPASSWORD"]
)
def test_names_of_secrets(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize("name", ["max-num-batched-tokens", "tokenizer", "OMP_NUM_THREADS", "keep-alive"])
def test_names_of_ordinary_settings(name: str) -> None:
    assert not looks_secret(name)
