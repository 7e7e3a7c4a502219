"""The environment, read here and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from gristmill.errors import GristmillError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Settings(BaseSettings):
    """What differs from machine to machine: `GRISTMILL_…`, or a `.env` beside the project file."""

    model_config = SettingsConfigDict(
        env_prefix="GRISTMILL_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    source: str | None = None
    """The bucket, instead of the project file's `source`."""
    home: Path | None = None
    """Where the embedded server, bundles and spool live; `.gristmill` beside the project file."""
    database_url: SecretStr | None = None
    """A PostgreSQL server to use instead of the embedded one."""
    database_port: int | None = Field(default=None, ge=1, le=65535)
    """The embedded server's port; without it 5432 where that is free."""
    host: str = "127.0.0.1"
    """The address that the API listens on."""
    port: int = Field(default=8000, ge=1, le=65535)
    """The port that the API listens on."""
    command: str = "gristmill"
    """The program that Airflow's tasks call."""
    bundle: Path | None = None
    """The bundle that `python -m gristmill.serving` answers from; without it, the champion's."""
    api_key: SecretStr | None = None
    """A key that opens what `python -m gristmill.serving` answers."""
    airflow_host: str = "127.0.0.1"
    """The address that Airflow's pages listen on."""
    airflow_port: int = Field(default=8082, ge=1, le=65535)
    """Their port."""
    airflow_password: SecretStr | None = None
    """The password of Airflow's user `airflow`; without it one made at random."""


class AmazonSettings(BaseSettings):
    """The usual AWS variables; without keys the bucket is read anonymously."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    aws_access_key_id: SecretStr | None = None
    aws_secret_access_key: SecretStr | None = None
    aws_session_token: SecretStr | None = None
    aws_region: str | None = None
    aws_default_region: str | None = None
    aws_endpoint_url: str | None = None
    aws_endpoint_url_s3: str | None = None

    def as_mapping(self) -> Mapping[str, str]:
        """The variables that are set, by their usual names, secrets in the clear."""
        return {
            name.upper(): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in self
            if value is not None
        }


def read_settings(folder: Path) -> Settings:
    """The settings of the project in a folder; raises GristmillError naming what is wrong."""
    try:
        return Settings(_env_file=folder / ".env")
    except ValidationError as error:
        raise GristmillError(_problems(error)) from error


def read_amazon_settings(folder: Path) -> AmazonSettings:
    """The AWS variables, from the environment or the `.env` of a folder."""
    return AmazonSettings(_env_file=folder / ".env")


def inherited_environment() -> Mapping[str, str]:
    """All variables, for a program that is started with some of its own beside them."""
    return dict(os.environ)


def cache_folder() -> Path:
    """Where what can be downloaded again is kept, for all projects of a user."""
    chosen = os.environ.get("XDG_CACHE_HOME")
    return (Path(chosen) if chosen else Path.home() / ".cache") / "gristmill"


def share_processors() -> None:
    """Let the threads that train a model sleep while they wait for each other, before any starts.

    They would spin: beside one busy process on two cores that made training six times as slow.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _problems(error: ValidationError) -> str:
    lines = [
        f"The setting GRISTMILL_{str(problem['loc'][0]).upper()} is wrong: {problem['msg']}"
        for problem in error.errors(include_input=False)
    ]
    return "\n".join(lines)
