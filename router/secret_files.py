"""Secrets from files: ``GLOWL_JWT_SECRET_FILE=/run/secrets/jwt`` in the place of ``GLOWL_JWT_SECRET``.

In: the environment. Out: the values of settings that hold secrets. Docker and Kubernetes hand secrets out as files, so
that they are not in the environment of every process. A file that is empty holds no secret: the variable counts then.
"""

from __future__ import annotations

import os
from typing import Any, Final

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from router.variable_files import SUFFIX, read_file

# In the annotation of a setting that is no `SecretStr`, but has a password in it.
IN_A_FILE_TOO: Final = "in a file, too"


class SecretFiles(PydanticBaseSettingsSource):
    """Reads ``NAME_FILE`` for each setting with secrets; white space at the file's end is dropped."""

    def __call__(self) -> dict[str, Any]:
        """Return the values of those that are set.

        Raises:
            pydantic.ValidationError: if a file cannot be read, or its setting is there twice; names the variable.
        """
        fields = self.settings_cls.model_fields
        found = (self.get_field_value(fields[name], name) for name in secret_variables(self.settings_cls).values())
        return {key: value for value, key, _is_complex in found if value is not None}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[str | None, str, bool]:
        """Return the value of one and the name under which it is given; None if no file is named, or it is empty.

        Raises:
            pydantic.ValidationError: as above.
        """
        variable = variable_of(field_name, field)
        try:
            return read_file(variable, os.environ) or None, str(field.validation_alias or field_name), False
        except ValueError as error:
            name = f"{field.validation_alias}{SUFFIX}" if field.validation_alias else f"{field_name}_file"
            raise _wrong(name, str(error)) from None


def secret_variables(settings: type[BaseSettings]) -> dict[str, str]:
    """Return the fields that hold secrets, by variable."""
    return {
        variable_of(name, field): name
        for name, field in settings.model_fields.items()
        if _is_secret(field.annotation) or IN_A_FILE_TOO in field.metadata
    }


def file_variables(settings: type[BaseSettings]) -> frozenset[str]:
    """Return the names of the variables that name files."""
    return frozenset(variable + SUFFIX for variable in secret_variables(settings))


def variable_of(name: str, field: FieldInfo) -> str:
    """Return the name of a setting's variable."""
    return str(field.validation_alias or f"GLOWL_{name.upper()}")


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(_is_secret(each) for each in getattr(annotation, "__args__", ()))


def _wrong(name: str, message: str) -> ValidationError:
    error = PydanticCustomError("secret_file", "{message}", {"message": message})
    details = InitErrorDetails(type=error, loc=(name,), input=None)
    return ValidationError.from_exception_data("Settings", [details])
