"""The environment, read once at start: every process of Glowl takes its settings from here.

In: environment variables. Out: one frozen `Settings`. A wrong value stops the start with a message that names the
variable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import platformdirs
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

DEFAULT_PORT = 8000
DEFAULT_GLM_PORT = 8101
DEFAULT_OWL2_PORT = 8102


def default_data_dir() -> Path:
    """Where models, the redis files and logs live unless ``GLOWL_DATA_DIR`` says otherwise."""
    return Path(platformdirs.user_data_dir("glowl", appauthor=False))


class Settings(BaseSettings):
    """Every knob of the api and the worker. Variables are the field names with ``GLOWL_`` before them.

    Raises:
        pydantic.ValidationError: if a variable has a wrong value.
    """

    model_config = SettingsConfigDict(env_prefix="GLOWL_", frozen=True, extra="ignore")

    host: str = Field("127.0.0.1", description="address the api listens on")
    port: int = Field(DEFAULT_PORT, ge=0, le=65535, description="port the api listens on")
    data_dir: Path = Field(default_factory=default_data_dir, description="models, redis files, logs")
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        validation_alias="REDIS_URL",
        description="redis://host:port/db or unix:///path?db=0",
    )
    glm_url: str = Field(
        f"http://127.0.0.1:{DEFAULT_GLM_PORT}", description="GLM engine: http(s)://... or unix:///path"
    )
    owl2_url: str = Field(
        f"http://127.0.0.1:{DEFAULT_OWL2_PORT}", description="Owl2 engine: http(s)://... or unix:///path"
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="comma-separated keys callers must send; empty: no key is asked for"
    )
    preset: str = Field("seed", description="policy preset, or a YAML file of rules")
    max_image_bytes: int = Field(20 * 1024 * 1024, gt=0, description="largest single picture, encoded")
    max_image_pixels: int = Field(40_000_000, gt=0, description="largest single picture, decoded")
    max_body_bytes: int = Field(64 * 1024 * 1024, gt=0, description="largest request body")
    max_images: int = Field(16, gt=0, description="most pictures in one request")
    allow_private_urls: bool = Field(
        False, description="let picture URLs and webhooks point to private and loopback addresses"
    )
    fetch_timeout_s: float = Field(15.0, gt=0, description="time to download one picture")
    max_wait_s: float = Field(
        120.0, ge=0, description="how long a chat completion waits for a job before it answers with the draft"
    )
    engine_timeout_s: float = Field(300.0, gt=0, description="longest silence of an engine before a branch is given up")
    lease_s: float = Field(5.0, gt=0, description="a running branch not heard of for so long is run again")
    resend_after_s: float = Field(15.0, gt=0, description="a queued branch not started for so long is sent again")
    max_attempts: int = Field(3, ge=1, description="runs of one branch before it is recorded as failed")
    job_ttl_s: int = Field(7 * 24 * 3600, gt=0, description="how long a finished job can be read")
    blob_ttl_s: int = Field(24 * 3600, gt=0, description="how long a picture is kept for its job")
    worker_concurrency: int = Field(8, ge=1, description="tasks one worker runs side by side")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(key.strip() for key in value.split(",") if key.strip())
        return value

    @property
    def engine_urls(self) -> dict[str, str]:
        """Engine name to base URL."""
        return {"glm": self.glm_url, "owl2": self.owl2_url}
