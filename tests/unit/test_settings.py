"""Settings: flags over environment over file over defaults; secrets masked; bad values name the field."""

from pathlib import Path

import pytest

from accelbench_assets.errors import UsageError
from accelbench_assets.settings import load_settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("LAKE", "HOME", "REGION", "USD_PER_HOUR", "DATABASE_URL"):
        monkeypatch.delenv(f"ACCELBENCH_{name}", raising=False)


def test_flag_beats_environment_beats_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "accelbench.toml").write_text('region = "eu-west-1"\n')
    assert load_settings().region == "eu-west-1"
    monkeypatch.setenv("ACCELBENCH_REGION", "us-west-2")
    assert load_settings().region == "us-west-2"
    assert load_settings(region="ap-south-1").region == "ap-south-1"


def test_lake_becomes_a_url(tmp_path: Path) -> None:
    assert load_settings().lake_url == (tmp_path / ".accelbench" / "lake").as_uri()
    assert load_settings(lake="s3://bucket/prefix/").lake_url == "s3://bucket/prefix"
    assert load_settings(lake="data").lake_url == (tmp_path / "data").as_uri()


@pytest.mark.parametrize(
    ("field", "value"), [("usd_per_hour", -1), ("launcher", "nomad"), ("llamacpp_threads", 0)]
)
def test_a_bad_value_names_its_field(field: str, value: object) -> None:
    with pytest.raises(UsageError, match=field):
        load_settings(**{field: value})


def test_an_unknown_lake_scheme_is_refused() -> None:
    with pytest.raises(UsageError, match="lake"):
        _ = load_settings(lake="ftp://x").lake_url


def test_shown_masks_the_database_password() -> None:
    shown = load_settings(database_url="postgresql://me:sesame-open@db:5432/x").shown()
    assert "sesame-open" not in str(shown)
    assert "db:5432" in shown["database_url"]
