"""The page that describes the api: how keys are sent, and what every route answers."""

from __future__ import annotations

from typing import Any

import httpx
import jsonschema
import pytest

from tests.support.servers import AppServer


def page_of(server: AppServer) -> Any:
    return httpx.get(server.url + "/openapi.json", timeout=300, trust_env=False).json()


def test_with_keys_every_route_asks_for_one_of_three_headers(keyed_api: AppServer) -> None:
    page = page_of(keyed_api)
    schemes = page["components"]["securitySchemes"]
    assert {each.get("name", each.get("scheme")) for each in schemes.values()} == {"bearer", "api-key", "x-api-key"}
    assert [list(each) for each in page["security"]] == [[name] for name in schemes]
    for scheme in schemes.values():
        header = {"authorization": "Bearer alice"} if scheme["type"] == "http" else {scheme["name"]: "alice"}
        assert httpx.get(keyed_api.url + "/v1/models", headers=header, timeout=300, trust_env=False).status_code == 200


def test_without_keys_none_is_asked_for(keyless_twin: AppServer) -> None:
    assert {} in page_of(keyless_twin)["security"]


def test_every_route_says_what_it_answers_and_every_reference_leads_somewhere(keyless_twin: AppServer) -> None:
    page = page_of(keyless_twin)
    for path, operations in page["paths"].items():
        for method, operation in operations.items():
            content = operation["responses"]["200"]["content"]
            assert all(each["schema"] for each in content.values()), (method, path)
    references: list[str] = []

    def look(value: Any) -> None:
        if isinstance(value, dict):
            references.extend([value["$ref"]] if isinstance(value.get("$ref"), str) else [])
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            look(inner)

    look(page)
    assert references
    for reference in references:
        assert reference.rpartition("/")[2] in page["components"]["schemas"], reference


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models",
        "/v1/models/glowl",
        "/v1/templates",
        "/v1/jobs",
        "/v1/files",
        "/v1/batches",
        "/v1/webhook_endpoints",
    ],
)
def test_answers_are_as_described(keyless_twin: AppServer, path: str) -> None:
    page = page_of(keyless_twin)
    described = page["paths"]["/v1/models/{model}" if path.endswith("glowl") else path]["get"]
    schema = described["responses"]["200"]["content"]["application/json"]["schema"]
    answer = httpx.get(keyless_twin.url + path, timeout=300, trust_env=False).json()
    jsonschema.Draft202012Validator({**schema, "components": page["components"]}).validate(answer)
