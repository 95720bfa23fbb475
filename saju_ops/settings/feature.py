"""The base of each feature's settings: read from the environment and from a `.env` file, frozen, without secrets in
its errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from saju_ops.settings.env_file import ENV_FILE, read_env_file
from saju_ops.settings.fields import variable_of, words_of


class Feature(BaseSettings):
    """The settings of one feature. `Settings` inherits from all of them; a feature by itself is never loaded."""

    model_config = SettingsConfigDict(
        extra="ignore", case_sensitive=True, frozen=True, hide_input_in_errors=True, defer_build=True
    )

    # The heading of its settings in the documents, and their page.
    title: ClassVar[str]
    page: ClassVar[str]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        assert isinstance(dotenv_settings, DotEnvSettingsSource)
        return init_settings, env_settings, _EnvFile(settings_cls, dotenv_settings.env_file or ENV_FILE)

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: Any, info: ValidationInfo) -> Any:
        """`NAME=` in an environment file means the default, as in the systems this one replaces."""
        field = cls.model_fields[str(info.field_name)]
        blank_is_wrong = bool(value) and words_of(field)["blank"]
        if isinstance(value, str) and not value.strip() and not blank_is_wrong:
            return field.default
        return value

    @classmethod
    def own_fields(cls) -> Iterator[FieldInfo]:
        """In the order in which they are written."""
        return (field for name, field in cls.model_fields.items() if name in cls.__annotations__)


class _EnvFile(DotEnvSettingsSource):
    """The `.env` file, read by our own reader: the library's skips a line that it can't read."""

    def _read_env_file(self, file_path: Path) -> Mapping[str, str | None]:
        return read_env_file(file_path, {variable_of(f) for f in self.settings_cls.model_fields.values()})
