"""The runbook knows every alert, and leads from it to a chapter of its own or to something that can be looked at."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml

from router.redis import RedisState
from tests.docs.pages import ALL, ROOT, Page
from tests.test_compose import ROUTER, WRITTEN, parse_command

ENGLISH, CHINESE = Page(ROOT / "docs/operate.md"), Page(ROOT / "docs/operate.zh.md")
BOTH = pytest.mark.parametrize("page", [ENGLISH, CHINESE], ids=str)


@BOTH
def test_every_alert_has_a_row(page: Page) -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text("utf-8"))
    alerts = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    assert [name for row in page.rows for name in re.findall(r"`(Glowl\w+)`", row[0])] == alerts


@BOTH
def test_every_state_of_redis_has_a_row(page: Page) -> None:
    told = {state for row in page.rows for state in re.findall(r'`"redis_state":"([^"]+)"`', row[0])}
    assert told == set(RedisState.__args__) - {"up"}  # type: ignore[attr-defined]


@BOTH
def test_the_engines_services_are_those_of_each_profile(page: Page) -> None:
    (line,) = [line for line in page.text.splitlines() if "`gpu-own`" in line and "`cpu`" in line]
    told = {frozenset(re.findall(r"`([^`]+)`", part)) for part in re.split(r"[,，]", line)}
    profiles = ("cpu", "gpu", "gpu-own")
    services = {name: found["profiles"] for name, found in WRITTEN["services"].items() if re.match("glm|owl2", name)}
    assert told == {frozenset([each, *(name for name in services if each in services[name])]) for each in profiles}


def test_the_chapters_that_tables_lead_to_are_there() -> None:
    chapters = set(re.findall(r"^## (.+)$", ENGLISH.text, re.MULTILINE))
    named = {"Engine away", "Disk full", "Redis out of memory", "Webhooks failing"}
    assert named <= chapters
    assert all(any(name in row[-1] for row in ENGLISH.rows) for name in named)


@pytest.mark.parametrize("page", [page for page in ALL if "docker compose" in page.text], ids=str)
def test_what_is_run_in_containers_is_a_command_there(page: Page) -> None:
    found = re.findall(r"docker compose (run|exec|logs|restart|stop|ps|up) ([^`\n|<>]+)", page.text)
    for verb, rest in found:
        words = [word for word in shlex.split(rest, comments=True) if not word.startswith("-")]
        services = [word for word in words if word in WRITTEN["services"]]
        if verb in ("run", "exec") and services[0] in ROUTER:
            command = shlex.split(rest)[shlex.split(rest).index(services[0]) + 1 :]
            # `exec` does not go through the image's entrypoint, which is glowl; `run` does
            assert (command[0] == "glowl") is (verb == "exec"), rest
            parse_command(command[verb == "exec" :])
