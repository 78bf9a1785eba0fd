"""Effective settings: flags over ``ACCELBENCH_*`` environment over ``accelbench.toml`` over defaults.

Belongs here: every setting, its default, its validation, and how it is shown with secrets masked.
Does not belong here: what a benchmark means (that is the cell, ``partitions``), credentials of AWS (their usual
environment variables and profiles are read by the AWS libraries themselves).
"""

from __future__ import annotations

import re
import tomllib
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from accelbench_assets.errors import UsageError
from accelbench_assets.scrub import url_without_credentials
from accelbench_assets.settings_groups import (
    BudgetSettings,
    FactsSettings,
    KubeSettings,
    NotifySettings,
    PoolSettings,
    PricesSettings,
    WatchSettings,
)

_DATABASE_URL_RULE = (
    "it must be of the form postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with special characters of the"
    " password percent-encoded (@ as %40, # as %23, / as %2F)"
)


def _is_database_url(text: str) -> bool:
    """Whether *text* is a PostgreSQL URL in which it is certain where the password ends."""
    scheme, mark, rest = text.partition("://")
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    if (
        not mark
        or scheme not in ("postgresql", "postgres")
        or "#" in authority
        or "@" in rest[len(authority) :]
    ):
        return False
    try:
        _ = urlsplit(text).port
    except ValueError:
        return False
    return authority.count("@") <= 1


class Settings(BaseSettings):
    """All settings. Paths are absolute after validation; ``None`` means the stated default rule applies."""

    model_config = SettingsConfigDict(
        env_prefix="ACCELBENCH_",
        env_nested_delimiter="__",
        toml_file="accelbench.toml",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    home: Path = Field(
        default=Path(".accelbench"),
        description="Folder for the default lake, the Dagster instance, the embedded PostgreSQL, engines and logs.",
    )
    lake: str | None = Field(
        default=None, description="Lake root: a folder, file:// or s3://bucket/prefix. Default: HOME/lake."
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="postgresql:// URL of the published catalog (Aurora or any). Default: an embedded server in HOME.",
    )
    site: Path | None = Field(default=None, description="Folder of the report site. Default: HOME/site.")
    launcher: str = Field(default="local", pattern="^(local|eks)$", description="Where engines run.")
    usd_per_hour: float | None = Field(
        default=None, gt=0, lt=100_000, description="Declared price of this machine; shown as declared."
    )
    region: str = Field(default="us-east-1", min_length=1, description="AWS region prices are shown for.")
    llamacpp_threads: int = Field(
        default=1, ge=1, le=256, description="Threads of the local llama.cpp; part of the cell."
    )

    kube: KubeSettings = Field(default_factory=KubeSettings, description="Kubernetes (EKS).")
    budget: BudgetSettings = Field(default_factory=BudgetSettings, description="Caps of paid runs.")
    facts: FactsSettings = Field(default_factory=FactsSettings, description="Facts asked live.")
    prices: PricesSettings = Field(default_factory=PricesSettings, description="Prices asked live.")
    watch: WatchSettings = Field(default_factory=WatchSettings, description="Watched releases.")
    notify: NotifySettings = Field(default_factory=NotifySettings, description="Messages at a run's end.")
    pools: PoolSettings = Field(default_factory=PoolSettings, description="Runs at once by family.")

    @field_validator("home", "site")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @field_validator("database_url")
    @classmethod
    def _unmistakable(cls, value: SecretStr | None) -> SecretStr | None:
        """A password with a special character as it is would be read as host, path or fragment, and be shown."""
        if value is not None and not _is_database_url(value.get_secret_value()):
            raise PydanticCustomError("database_url", _DATABASE_URL_RULE)
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags first, then the environment, then the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @cached_property
    def lake_url(self) -> str:
        """The lake root as a URL: ``file:///…`` or ``s3://…``, without a trailing slash."""
        raw = self.lake or str(self.home / "lake")
        if raw.startswith("s3://"):
            return raw.rstrip("/")
        if raw.startswith("file://"):
            raw = raw.removeprefix("file://")
        elif "://" in raw:
            raise UsageError(f"lake: {raw!r} is neither a folder nor file:// nor s3://.")
        return Path(raw).expanduser().absolute().as_uri().rstrip("/")

    @property
    def site_dir(self) -> Path:
        """Folder of the report site."""
        return self.site or self.home / "site"

    @property
    def dagster_home(self) -> Path:
        """Folder of the Dagster instance (SQLite)."""
        return self.home / "dagster"

    def shown(self) -> dict[str, Any]:
        """Effective values with secrets masked, for ``accelbench config``."""
        return {
            "home": str(self.home),
            "lake": self.lake_url,
            "database_url": (
                url_without_credentials(self.database_url.get_secret_value())
                if self.database_url
                else f"embedded PostgreSQL in {self.home / 'postgres'}"
            ),
            "site": str(self.site_dir),
            "dagster_home": str(self.dagster_home),
            "launcher": self.launcher,
            "usd_per_hour": self.usd_per_hour,
            "region": self.region,
            "llamacpp_threads": self.llamacpp_threads,
            **{
                f"{group}.{name}": "****" if isinstance(value, SecretStr) else _plain(value)
                for group in GROUPS
                for name, value in getattr(self, group)
            },
        }


GROUPS = ("kube", "budget", "facts", "prices", "watch", "notify", "pools")


def _plain(value: Any) -> Any:
    """A setting as it is written."""
    if isinstance(value, Decimal):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def load_settings(**flags: Any) -> Settings:
    """Settings with *flags* (``None`` values ignored) on top.

    Raises ``UsageError`` naming the field for a value that does not validate, the file for one that does not parse.
    """
    try:
        return Settings(**{k: v for k, v in flags.items() if v is not None})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"accelbench.toml cannot be read: {error}.") from None
    except SettingsError as error:
        group = re.search(r'field "(\w+)"', str(error))
        name = f"ACCELBENCH_{group[1].upper() if group else '…'}"
        raise UsageError(
            f"{name}, or a variable that begins with {name}__, is not JSON.",
            hint="Lists and groups are written as JSON there, such as ACCELBENCH_PRICES__REGIONS='[\"us-east-1\"]'.",
        ) from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "settings"
        if first["type"] == "extra_forbidden":
            known = ", ".join(sorted(Settings.model_fields))
            raise UsageError(f"accelbench.toml: {field} is not a setting. There are: {known}.") from None
        raise UsageError(
            f"Setting {field}: {first['msg']}.",
            hint=f"Set it by flag, ACCELBENCH_{field.upper().replace('.', '__')} or accelbench.toml.",
        ) from None
