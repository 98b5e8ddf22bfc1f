"""Secrets from files: ``GLOWL_JWT_SECRET_FILE=/run/secrets/jwt`` in the place of ``GLOWL_JWT_SECRET``.

In: the environment. Out: the values of settings that hold secrets. Docker and Kubernetes hand secrets out as files, so
that they are not in the environment of every process.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

_SUFFIX: Final = "_FILE"


class SecretFiles(PydanticBaseSettingsSource):
    """Reads ``NAME_FILE`` for each setting with secrets; white space at the file's end is dropped."""

    def __call__(self) -> dict[str, Any]:
        """Return the values of those that are set.

        Raises:
            pydantic.ValidationError: if a file cannot be read, or its setting is there twice; names the variable.
        """
        values = {
            name: self.get_field_value(self.settings_cls.model_fields[name], name)[0]
            for name in secret_variables(self.settings_cls).values()
        }
        return {name: value for name, value in values.items() if value is not None}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[str | None, str, bool]:
        """Return the value of one; None if no file is named.

        Raises:
            pydantic.ValidationError: as above.
        """
        variable = _variable(field_name)
        path = os.environ.get(variable + _SUFFIX, "").strip()
        if path and os.environ.get(variable, "").strip():
            raise _wrong(field_name, f"{variable} is set too; set one of them")
        try:
            return Path(path).read_text("utf-8").strip() if path else None, field_name, False
        except (OSError, UnicodeDecodeError) as error:
            raise _wrong(field_name, f"{path} cannot be read: {getattr(error, 'strerror', 'it is no text')}") from None


def secret_variables(settings: type[BaseSettings]) -> dict[str, str]:
    """Return the fields that hold secrets, by variable."""
    return {_variable(name): name for name, field in settings.model_fields.items() if _is_secret(field.annotation)}


def file_variables(settings: type[BaseSettings]) -> frozenset[str]:
    """Return the names of the variables that name files."""
    return frozenset(variable + _SUFFIX for variable in secret_variables(settings))


def _variable(name: str) -> str:
    return f"GLOWL_{name.upper()}"


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(_is_secret(each) for each in getattr(annotation, "__args__", ()))


def _wrong(name: str, message: str) -> ValidationError:
    error = PydanticCustomError("secret_file", "{message}", {"message": message})
    details = InitErrorDetails(type=error, loc=(f"{name}_file",), input=None)
    return ValidationError.from_exception_data("Settings", [details])
