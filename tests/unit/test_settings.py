"""Settings: flags over environment over file over defaults; secrets masked; bad values name the field."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from accelbench_assets.errors import UsageError
from accelbench_assets.settings import Settings, load_settings


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


def test_a_list_that_is_no_json_is_named_and_its_value_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELBENCH_PRICES__REGIONS", "hf_canary")
    with pytest.raises(UsageError, match=r"^ACCELBENCH_PRICES, or a variable") as caught:
        load_settings()
    assert "written as JSON" in str(caught.value.hint)
    assert "hf_canary" not in f"{caught.value} {caught.value.hint}"


def test_an_unknown_lake_scheme_is_refused() -> None:
    with pytest.raises(UsageError, match="lake"):
        _ = load_settings(lake="ftp://x").lake_url


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunt@er22@db:5432/x",
        "postgresql://me:hunt/er22@db:5432/x",
        "postgresql://me:hunt?er22@db:5432/x",
        "postgresql://me:hunt#er22@db:5432/x",
        "postgresql://me:[hunter22@db:5432/x",
        "postgresql://me@db:hunter22/x",
        "mysql://me:hunter22@db/x",
        "host=db password=hunter22",
        "",
    ],
)
def test_a_database_url_whose_password_could_be_misread_is_refused_unseen(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("ACCELBENCH_DATABASE_URL", url)
    with pytest.raises(UsageError, match=r"^Setting database_url: it must be .* percent-encoded") as caught:
        load_settings()
    said = str(caught.value)
    assert not any(part in said for part in ("hunt", "er22", "db:", "me:", "mysql"))
    with pytest.raises(ValidationError) as raw:
        Settings()
    assert "hunt" not in str(raw.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:p%40ss%23w%2Frd@db.example:5432/x?sslmode=require",
        "postgres://db/x",
        "postgresql:///x?host=/var/run/postgresql",
        "postgresql://me:a:b@[::1]:5432/x",
    ],
)
def test_a_sound_database_url_is_taken_as_it_is(url: str) -> None:
    settings = load_settings(database_url=url)
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == url
    assert settings.shown()


def test_shown_masks_the_database_password() -> None:
    shown = load_settings(database_url="postgresql://me:sesame-open@db:5432/x").shown()
    assert "sesame-open" not in str(shown)
    assert "db:5432" in shown["database_url"]


@pytest.mark.parametrize(
    ("text", "says"),
    [("x = ", "accelbench.toml cannot be read"), ("bogus = 1", "bogus is not a setting")],
)
def test_a_bad_file_is_named(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "accelbench.toml").write_text(text)
    with pytest.raises(UsageError, match=says):
        load_settings()
