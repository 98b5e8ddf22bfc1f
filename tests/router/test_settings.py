"""Where the engines are, as the environment says it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from engines.http.balancer import BalancedClient
from engines.http.client import EngineClient
from router.bootstrap import make_engines
from router.settings import Settings


def test_one_url_gives_a_client_and_several_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOWL_GLM_URL", "http://a:8101, http://b:8101,http://a:8101")
    monkeypatch.setenv("GLOWL_OWL2_URL", "unix:///run/owl2.sock")

    settings = Settings()
    engines = make_engines(settings)

    assert settings.engine_urls == {"glm": ("http://a:8101", "http://b:8101"), "owl2": ("unix:///run/owl2.sock",)}
    assert isinstance(engines["glm"], BalancedClient)
    assert [status.url for status in engines["glm"].status()] == ["http://a:8101", "http://b:8101"]
    assert isinstance(engines["owl2"], EngineClient)


@pytest.mark.parametrize("value", ["", ",", "localhost:8101", "http://a:1,ftp://b", "http://user:pw@a:1"])
def test_a_wrong_url_stops_the_start_and_names_its_variable(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("GLOWL_OWL2_URL", value)

    with pytest.raises(ValidationError) as caught:
        Settings()

    assert [error["loc"] for error in caught.value.errors()] == [("owl2_url",)]


def test_the_key_is_kept_out_of_sight_and_empty_variables_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOWL_GLM_API_KEY", " sk-secret\n")
    monkeypatch.setenv("GLOWL_GLM_MODEL", "")

    settings = Settings()

    assert settings.glm_api_key is not None
    assert settings.glm_api_key.get_secret_value() == "sk-secret"
    assert "sk-secret" not in repr(settings)
    assert settings.glm_model is None
    monkeypatch.setenv("GLOWL_GLM_API_KEY", "")
    assert Settings().glm_api_key is None


def test_engines_somebody_named_are_told_from_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().named_engines == frozenset()
    monkeypatch.setenv("GLOWL_GLM_URL", "https://glm.example/v1")
    assert Settings().named_engines == {"glm"}


@pytest.mark.parametrize(("value", "level"), [("debug", "DEBUG"), ("Warning", "WARNING"), (" ERROR ", "ERROR")])
def test_a_log_level_is_taken_in_any_case(monkeypatch: pytest.MonkeyPatch, value: str, level: str) -> None:
    monkeypatch.setenv("GLOWL_LOG_LEVEL", value)

    assert Settings().log_level == level


@pytest.mark.parametrize("value", ["loud", "10", "TRACE", "INFO,DEBUG"])
def test_an_unknown_log_level_stops_the_start(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("GLOWL_LOG_LEVEL", value)

    with pytest.raises(ValidationError, match="DEBUG, INFO, WARNING, ERROR") as caught:
        Settings()

    assert [error["loc"] for error in caught.value.errors()] == [("log_level",)]


@pytest.mark.parametrize(
    ("value", "api", "glm"),
    [("", "INFO", "INFO"), ("warning, GLM=debug", "WARNING", "DEBUG"), ("api=ERROR", "ERROR", "INFO")],
)
def test_a_process_may_have_a_log_level_of_its_own(
    monkeypatch: pytest.MonkeyPatch, value: str, api: str, glm: str
) -> None:
    monkeypatch.setenv("GLOWL_LOG_LEVEL", value)
    settings = Settings()
    assert (settings.log_level_of("api"), settings.log_level_of("glm")) == (api, glm)


@pytest.mark.parametrize("value", ["redis=DEBUG", "api=loud", "glm=INFO,glm=DEBUG"])
def test_a_log_level_of_no_process_of_ours_stops_the_start(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("GLOWL_LOG_LEVEL", value)
    with pytest.raises(ValidationError, match=r"api, worker, glm, owl2|choose from|PROCESS=LEVEL"):
        Settings()


@pytest.mark.parametrize(("value", "expected"), [("", "auto"), (" JSON ", "json"), ("human", "human")])
def test_a_log_format_is_taken_in_any_case(monkeypatch: pytest.MonkeyPatch, value: str, expected: str) -> None:
    monkeypatch.setenv("GLOWL_LOG_FORMAT", value)
    assert Settings().log_format == expected


_JWKS = {"GLOWL_JWT_JWKS": "/keys.json", "GLOWL_JWT_ISSUER": "https://a", "GLOWL_JWT_AUDIENCE": "glowl"}


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"GLOWL_JWT_SECRET": "short"}, "jwt_secret"),
        ({"GLOWL_JWT_SECRET": f"{'x' * 32},short"}, "jwt_secret"),
        ({"GLOWL_JWT_SECRET": f"-----BEGIN PUBLIC KEY-----{'x' * 32}"}, "jwt_secret"),
        ({**_JWKS, "GLOWL_JWT_ISSUER": ""}, "jwt_issuer"),
        ({**_JWKS, "GLOWL_JWT_AUDIENCE": " , "}, "jwt_audience"),
        ({"GLOWL_JWT_OWNER_CLAIM": ""}, "jwt_owner_claim"),
        ({"GLOWL_JWT_SCOPES": "ask,root"}, "jwt_scopes"),
    ],
    ids=str,
)
def test_settings_of_tokens_that_would_let_in_the_wrong_ones_stop_the_start(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], named: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(ValidationError) as caught:
        Settings()

    assert [error["loc"][0] for error in caught.value.errors()] == [named]
    assert "xxxx" not in str(caught.value)


def test_settings_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    without = Settings()
    assert not without.has_tokens
    for name, value in {**_JWKS, "GLOWL_JWT_SECRET": f"{'x' * 32},{'y' * 32}", "GLOWL_JWT_SCOPES": "ask"}.items():
        monkeypatch.setenv(name, value)

    settings = Settings()

    assert settings.has_tokens
    assert len(settings.jwt_secret) == 2
    assert (settings.jwt_issuer, settings.jwt_audience, settings.jwt_scopes) == ("https://a", ("glowl",), ("ask",))
    for name in [*_JWKS, "GLOWL_JWT_SECRET", "GLOWL_JWT_SCOPES"]:
        monkeypatch.setenv(name, "")  # compose files pass variables that are not set as empty ones
    assert Settings() == without


@pytest.mark.parametrize("name", ["KEY", "ADDRESS"])
@pytest.mark.parametrize("jobs", ["5", "none"])
def test_jobs_are_limited_for_owners_alone(monkeypatch: pytest.MonkeyPatch, name: str, jobs: str) -> None:
    monkeypatch.setenv("GLOWL_LIMITS", f"jobs={jobs}")
    Settings()
    monkeypatch.setenv(f"GLOWL_{name}_LIMITS", f"requests=1,jobs={jobs}")
    with pytest.raises(ValidationError, match="by owner only; write it in GLOWL_LIMITS"):
        Settings()


@pytest.mark.parametrize("owner", ["local", "5d865deae06fbd34", "own_9c1f03b6a5b94d51c2f3a7e0"])
def test_owners_are_named_by_their_ids(monkeypatch: pytest.MonkeyPatch, owner: str) -> None:
    monkeypatch.setenv("GLOWL_AUDIT_TEXT", owner)
    monkeypatch.setenv("GLOWL_CAPTURE", f"{owner}=text")
    settings = Settings()
    assert (settings.audit_text, settings.capture) == ((owner,), ((owner, "text"),))


@pytest.mark.parametrize(("name", "value"), [("AUDIT_TEXT", "local,alice"), ("CAPTURE", "alice=text")])
def test_the_name_of_an_owner_is_refused_where_its_id_is_meant(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"GLOWL_{name}", value)
    with pytest.raises(ValidationError, match="'alice' is no id of an owner"):
        Settings()
