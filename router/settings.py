"""The environment, read once at start: every process of Glowl takes its settings from here.

In: environment variables. Out: one frozen `Settings`. A wrong value stops the start with a message that names the
variable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from engines.http.address import DEFAULT_PORTS, split_urls
from engines.logs import LogFormat
from router.limits.addresses import to_networks
from router.limits.limits import NO_LIMITS, Limits, check_no_jobs, to_limits
from router.loopback import is_loopback
from router.scopes import Scope
from router.secret_files import IN_A_FILE_TOO, SecretFiles, file_variables, variable_of
from router.settings_checks import (
    DEFAULT_REDIS_URL,
    DEFAULT_TOKEN_SCOPES,
    DEFAULT_WEBHOOK_DELAYS_S,
    check_address,
    check_delays,
    check_hosts,
    check_issuer,
    check_jwt_secrets,
    check_keys,
    check_levels,
    check_origins,
    check_owners,
    check_redis,
    check_signing_secrets,
    level_of,
    or_auto,
    or_default_scopes,
    or_none,
    split_adapters,
    split_captures,
    split_words,
    to_audit,
    to_flag,
    to_listening,
    to_program,
)

PRODUCT_URL = "https://github.com/glowl/glowl"
DEFAULT_PORT = 8000

# What settings are: words between commas, secrets likewise, a text or nothing.
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_words)]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(split_words)]
Maybe = Annotated[str | None, BeforeValidator(or_none)]


class SettingsError(ValueError):
    """Settings that are right each by itself cannot work together, or with what they name; says which variable."""


def default_data_dir() -> Path:
    """Where models, the redis files and logs live unless ``GLOWL_DATA_DIR`` says otherwise."""
    return Path(platformdirs.user_data_dir("glowl", appauthor=False))


class Settings(BaseSettings):
    """Every knob of the api and the worker. Variables are the field names with ``GLOWL_`` before them.

    Raises:
        pydantic.ValidationError: if a variable has a wrong value.
    """

    model_config = SettingsConfigDict(
        env_prefix="GLOWL_", frozen=True, extra="ignore", hide_input_in_errors=True, allow_inf_nan=False
    )

    host: str = Field("127.0.0.1", description="address the api listens on")
    port: int = Field(DEFAULT_PORT, ge=0, le=65535, description="port the api listens on")
    ui_port: int = Field(
        0, ge=0, le=65535, description="a second port for the page and the api, where it is free; 0: none"
    )
    data_dir: Path = Field(default_factory=default_data_dir, description="models, redis files, logs")
    redis_url: Annotated[str, AfterValidator(check_redis), IN_A_FILE_TOO] = Field(
        DEFAULT_REDIS_URL,
        validation_alias="REDIS_URL",
        description="address of redis: `redis://user:password@host:port/db`, `rediss://` for TLS, `unix:///path?db=0`, "
        "or `sentinel://host,host/service` (docs/high-availability.md)",
    )
    redis_wait: int = Field(
        0,
        ge=0,
        le=9,
        description="replicas of redis that must have a new job, file, batch or key before its id is given out; too "
        "few: a 503",
    )
    glm_url: Annotated[str, AfterValidator(check_address)] = Field(
        f"http://127.0.0.1:{DEFAULT_PORTS['glm']}",
        description="GLM engine: http(s)://... or unix:///path; several separated by commas share the work",
    )
    glm_api_key: Annotated[SecretStr | None, BeforeValidator(or_none), AfterValidator(check_keys)] = Field(
        None, description="key for the GLM servers"
    )
    glm_model: Maybe = Field(None, description="name of the model on the GLM servers; empty: their first one")
    glm_adapters: Annotated[tuple[tuple[str, str], ...], NoDecode, BeforeValidator(split_adapters)] = Field(
        (), description="LoRA adapters of the GLM engine: NAME=FOLDER_OR_HUB_ID, comma-separated"
    )
    vllm: Annotated[str, BeforeValidator(to_program)] = Field(
        "auto",
        description="with what `glowl up` runs GLM on a GPU: `auto` takes vLLM if it is installed; `off`; or the path "
        "of a `vllm` in another environment",
    )
    owl2_url: Annotated[str, AfterValidator(check_address)] = Field(
        f"http://127.0.0.1:{DEFAULT_PORTS['owl2']}", description="Owl2 engine: the same, one or several"
    )
    owl2_adapters: Annotated[tuple[tuple[str, str], ...], NoDecode, BeforeValidator(split_adapters)] = Field(
        (), description="LoRA adapters of the Owl2 engine, in the same form"
    )
    api_keys: Annotated[Secrets, AfterValidator(check_keys)] = Field(
        (), description="comma-separated API keys, each an owner of its own, beside those of `glowl keys`"
    )
    insecure: Annotated[bool, BeforeValidator(to_flag)] = Field(
        False, description="answer without keys on any address, as long as there is neither a key nor an owner"
    )
    published_on: str = Field(
        "", description="address on which others reach the api, if it is another than GLOWL_HOST, as from a container"
    )
    jwt_secret: Annotated[Secrets, AfterValidator(check_jwt_secrets)] = Field(
        (),
        description="checks HS256 tokens (JWT) that are sent instead of a key; at least 32 bytes; several separated by "
        "commas are all accepted",
    )
    jwt_jwks: Maybe = Field(
        None,
        description="public keys (JWKS) of an issuer of RS, PS, ES or EdDSA tokens: a URL, or a file for machines "
        "without a network",
    )
    jwt_issuer: Annotated[Maybe, AfterValidator(check_issuer)] = Field(
        None, validate_default=True, description="what `iss` of a token must be; needed with GLOWL_JWT_JWKS"
    )
    jwt_audience: Annotated[Words, AfterValidator(check_issuer)] = Field(
        (),
        validate_default=True,
        description="what `aud` of a token must be, or one of several separated by commas; needed with GLOWL_JWT_JWKS",
    )
    jwt_owner_claim: str = Field(
        "sub", pattern=r"^[!-~]{1,100}$", description="claim that says whose the jobs and files of a token are"
    )
    jwt_scopes: Annotated[
        tuple[Scope, ...], NoDecode, BeforeValidator(split_words), AfterValidator(or_default_scopes)
    ] = Field(
        default_factory=lambda: DEFAULT_TOKEN_SCOPES,
        description="what a token without `scope` may do, comma-separated: ask, jobs, files, admin",
    )
    limits: Annotated[Limits, NoDecode, BeforeValidator(to_limits)] = Field(
        NO_LIMITS,
        description="how much each owner may do, as requests=60/min, tokens=100k/min, pictures=60/min, "
        "megapixels=500/min, concurrent=8, jobs=100; what is left out is not limited",
    )
    key_limits: Annotated[Limits, NoDecode, BeforeValidator(to_limits), AfterValidator(check_no_jobs)] = Field(
        NO_LIMITS, description="how much may be done with each key, written likewise, without jobs"
    )
    address_limits: Annotated[Limits, NoDecode, BeforeValidator(to_limits), AfterValidator(check_no_jobs)] = Field(
        NO_LIMITS, description="how much may be done from each client address, written likewise, without jobs"
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode, BeforeValidator(to_networks)] = Field(
        ("127.0.0.1", "::1"),
        description="comma-separated addresses and networks of proxies whose X-Forwarded-For or Forwarded says where "
        "a request comes from; unix: those that come over a unix socket",
    )
    allowed_hosts: Annotated[Words, AfterValidator(check_hosts)] = Field(
        (),
        description="comma-separated host names of this service beside localhost, its addresses and GLOWL_HOST; "
        "without keys, requests for other hosts are refused; *: any",
    )
    cors_origins: Annotated[Words, AfterValidator(check_origins)] = Field(
        (), description="comma-separated origins of web pages that may use the api, as https://app.example.com; *: any"
    )
    preset: str = Field("seed", description="policy preset, or a YAML file of rules")
    multi_hop_weights: Annotated[Path | None, BeforeValidator(or_none)] = Field(
        None, description="weights of the multi-hop score: a file of `glowl policy fit`; empty: the shipped ones"
    )
    max_image_bytes: int = Field(20 * 1024 * 1024, gt=0, description="largest single picture, encoded")
    max_image_pixels: int = Field(40_000_000, gt=0, description="largest single picture, decoded")
    max_body_bytes: int = Field(64 * 1024 * 1024, gt=0, description="largest request body")
    max_json_items: int = Field(
        8192, gt=0, description="most objects and lists in one request; it may hold eight times as many values"
    )
    max_text_chars: int = Field(2_000_000, gt=0, description="longest conversation, its pictures not counted")
    max_connections: int = Field(
        2000, ge=2, description="open connections of one api process; one address may have half of them"
    )
    head_timeout_s: float = Field(10.0, gt=0, description="time for the headers of a request to arrive")
    max_requests_in_flight: int = Field(
        2000, ge=2, description="open requests of one api process; one key may have half of them"
    )
    max_bytes_in_flight: int = Field(
        384 * 1024 * 1024,
        gt=0,
        description="bytes of request bodies in one api process at a time; one key may have half of them",
    )
    body_timeout_s: float = Field(15.0, gt=0, description="longest pause while a request body arrives")
    max_images: int = Field(16, gt=0, description="most pictures in one request, earlier turns included")
    allow_private_urls: bool = Field(
        False, description="let picture URLs and webhooks point to private and loopback addresses"
    )
    fetch_timeout_s: float = Field(15.0, gt=0, description="time to download one picture")
    contact: str = Field(
        PRODUCT_URL,
        pattern=r"^[!-~]{1,200}$",
        description="mail address or URL in the User-Agent of downloads and webhooks; many sites ask for one",
    )
    webhook_secret: Annotated[Secrets, AfterValidator(check_signing_secrets)] = Field(
        (),
        description="signs webhooks to URLs named in requests; several separated by commas all sign; "
        "empty: each key gets its own",
    )
    webhook_timeout_s: float = Field(20.0, gt=0, description="time for one attempt to deliver a webhook")
    webhook_delays_s: Annotated[
        tuple[float, ...], NoDecode, BeforeValidator(split_words), AfterValidator(check_delays)
    ] = Field(
        default_factory=lambda: DEFAULT_WEBHOOK_DELAYS_S,
        description="comma-separated waits after failed attempts of a webhook; the last repeats for 72 hours in all",
    )
    max_wait_s: float = Field(
        120.0, ge=0, description="how long a chat completion waits for a job before it answers with the draft"
    )
    engine_timeout_s: float = Field(300.0, gt=0, description="longest silence of an engine before a branch is given up")
    answer_timeout_s: float = Field(3600.0, gt=0, description="longest time that one answer of an engine may take")
    lease_s: float = Field(5.0, gt=0, description="a branch whose worker is silent for this long is run again")
    resend_after_s: float = Field(15.0, gt=0, description="time between two checks for lost messages to the workers")
    engine_patience_s: float = Field(
        300.0, ge=0, description="how long a branch waits for an engine that is loading or away before it fails"
    )
    draft_patience_s: float = Field(
        2.0,
        ge=0,
        description="how long Owl2's finished answer waits for a draft; half of that for one that has said nothing",
    )
    merge_patience_s: float = Field(
        30.0, ge=0, description="how long Owl2's finished answer waits for GLM's part of the final one"
    )
    max_attempts: int = Field(3, ge=1, description="most runs of one branch; after that it has failed")
    max_unfinished_jobs: int = Field(
        1000, ge=1, description="jobs that one key may have queued or running; lines of batches are counted apart"
    )
    job_expires_s: int = Field(
        24 * 3600, gt=0, description="longest life of an unfinished job; then it ends with what it has"
    )
    job_ttl_s: int = Field(7 * 24 * 3600, gt=0, description="how long a finished job can be read")
    blob_ttl_s: int = Field(24 * 3600, gt=0, description="how long a picture is kept after its last job ended")
    max_picture_bytes: int = Field(
        1024 * 1024 * 1024,
        gt=0,
        description="most bytes of pictures for all jobs of one key; pictures of ended jobs are dropped first",
    )
    cache_bytes: int = Field(
        64 * 1024 * 1024,
        ge=0,
        description="most bytes of answers that are kept to be given again; 0: none are, and no requests share a run",
    )
    cache_ttl_s: int = Field(24 * 3600, gt=0, description="how long an answer is kept to be given again")
    max_file_bytes: int = Field(200 * 1024 * 1024, gt=0, description="largest uploaded file")
    max_stored_bytes: int = Field(1024 * 1024 * 1024, gt=0, description="most bytes of files for one key")
    file_ttl_s: int = Field(
        7 * 24 * 3600, ge=3600, description="how long a file is kept, unless its upload or batch says otherwise"
    )
    batch_lines_in_flight: int = Field(32, ge=1, description="batch lines that one api process runs at a time")
    drain_s: float = Field(
        20.0, ge=0, description="time after SIGTERM for a worker's runs and the api's streams to end"
    )
    drain_notice_s: float = Field(
        1.0, ge=0, description="time before that in which the api still answers, while /readyz says 503"
    )
    worker_concurrency: int = Field(8, ge=1, description="tasks that one worker runs at a time")
    audit: Annotated[Literal["off", "on", "required"], BeforeValidator(to_audit)] = Field(
        "off",
        description="audit log in the data folder: `on`; `required` answers nothing while it cannot be written",
    )
    audit_days: int = Field(90, ge=1, description="days whose audit log is kept")
    audit_text: Annotated[Words, AfterValidator(check_owners)] = Field(
        (),
        description="comma-separated ids of owners whose questions and answers are in the audit log; others' never are",
    )
    capture: Annotated[tuple[tuple[str, str], ...], NoDecode, BeforeValidator(split_captures)] = Field(
        (),
        description="comma-separated ids of owners whose questions and answers are kept for data sets: OWNER=text or "
        "OWNER=pictures, such as local=pictures; others by `glowl owners set`; nobody else's are",
    )
    capture_days: int = Field(90, ge=1, description="days for which they are kept")
    second_looks: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of those owners' fast questions that are asked again by the deep route, after all other "
        "jobs; what comes of it is kept for `glowl verdict`, and never shown",
    )
    metrics: Annotated[bool, BeforeValidator(to_flag)] = Field(
        True, description="count and time what happens, for Prometheus: `/metrics`"
    )
    worker_metrics: Annotated[tuple[str, int] | None, NoDecode, BeforeValidator(to_listening)] = Field(
        None,
        description="HOST:PORT on which a worker shows its own `/metrics`, or the next free port; empty: nowhere",
    )
    log_level: Annotated[str, AfterValidator(check_levels)] = Field(
        "INFO",
        description="DEBUG, INFO, WARNING or ERROR; another one for api, worker, glm or owl2: `INFO,worker=DEBUG`",
    )
    log_format: Annotated[LogFormat, BeforeValidator(or_auto)] = Field(
        "auto", description="lines of the log: `json`, `human`, or `auto`: for people on a terminal, JSON elsewhere"
    )

    @classmethod
    def variables(cls) -> frozenset[str]:
        """Return the names of all environment variables that are read."""
        return frozenset(variable_of(*item) for item in cls.model_fields.items()) | file_variables(cls)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment, and secrets from the files that it names.

        Files come before variables: one that is set, but to nothing, would else count as a value.
        """
        return (init_settings, SecretFiles(settings_cls), env_settings)

    def log_level_of(self, process: str) -> str:
        """Return the lowest level that a process writes: ``api``, ``worker``, ``glm`` or ``owl2``."""
        return level_of(self.log_level, process)

    def adapters_of(self, engine: str) -> tuple[tuple[str, str], ...]:
        """The LoRA adapters of an engine, as (name, folder or hub id)."""
        return {"glm": self.glm_adapters, "owl2": self.owl2_adapters}.get(engine, ())

    @property
    def is_only_local(self) -> bool:
        """Whether only this machine can reach the api."""
        return is_loopback(self.published_on or self.host)

    @property
    def has_tokens(self) -> bool:
        """Whether tokens (JWT) are accepted."""
        return bool(self.jwt_secret or self.jwt_jwks)

    @property
    def names_tokens(self) -> bool:
        """Whether anything is said of tokens, enough or not."""
        return self.has_tokens or bool(self.jwt_issuer or self.jwt_audience)

    @property
    def audit_dir(self) -> Path:
        """Where the audit log is."""
        return self.data_dir / "audit"

    @property
    def loop_dir(self) -> Path:
        """Where exchanges are kept for data sets."""
        return self.data_dir / "loop"

    @property
    def asks_for_keys(self) -> bool:
        """Whether a request needs a key or a token, whatever owners redis knows."""
        return bool(self.api_keys) or self.has_tokens

    @property
    def engine_urls(self) -> dict[str, tuple[str, ...]]:
        """Engine name to base URLs."""
        return {"glm": split_urls(self.glm_url), "owl2": split_urls(self.owl2_url)}

    @property
    def named_engines(self) -> frozenset[str]:
        """Engines whose URL is set: they run already, or the process that set it starts them."""
        return frozenset(name for name in self.engine_urls if f"{name}_url" in self.model_fields_set)
