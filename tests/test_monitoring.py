"""What `deploy/` brings for Prometheus and Grafana names metrics that there are, and is what their own tools accept."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from engines import meters
from engines.metrics import Family
from router.telemetry import families
from router.telemetry.meters import CountingMeters
from scripts.dashboard import VLLM, dashboard

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing: apt install prometheus")


def shown_by(family: Family) -> set[str]:
    if family.kind == "histogram":
        return {family.name + suffix for suffix in ("_bucket", "_sum", "_count")}
    return {family.name}


def exposed() -> set[str]:
    """The families that an api and an engine server really show, everything being there."""
    api = CountingMeters()
    labels = {family.name: [(family.labels, 1.0)] for family in (*families.STORED, *families.SEEN)}
    api.looked.values = labels
    whole = meters.EngineState(1, 1, 0.5, 1, 1, 1, 1, 0.5)
    texts = (api.registry.expose()[0], meters.EngineMeters().expose(whole, is_ready=True)[0])
    return {line.split()[2] for text in texts for line in text.decode().splitlines() if line.startswith("# TYPE")}


FAMILIES = [family for family in (*families.API, *meters.ENGINE) if family.name in exposed()]
KNOWN = {name for family in FAMILIES for name in shown_by(family)}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> list[tuple[str, str]]:
    rules = yaml.safe_load(RULES.read_text())
    found = [(rule["alert"], rule["expr"]) for group in rules["groups"] for rule in group["rules"]]
    for path in DASHBOARDS:
        for panel in panels(json.loads(path.read_text())):
            found += [(panel["title"], target["expr"]) for target in panel["targets"]]
    return found


def test_every_metric_that_is_described_is_shown() -> None:
    assert [*families.API, *meters.ENGINE] == FAMILIES


def test_every_metric_that_is_named_there_is_shown_by_a_process() -> None:
    for place, expression in expressions():
        named = set(re.findall(r"\bglowl_\w+", expression))
        assert named - KNOWN == set(), place
        assert named or re.search(r"\bup\{|\bprocess_|\bALERTS\{", expression), place


def test_panels_of_engines_read_a_vllm_server_too() -> None:
    asked = " ".join(expression for _, expression in expressions())
    for name, other in VLLM.items():
        used = re.findall(rf"\b{name}(?:_bucket)?\b", asked)
        assert len(used) == len(re.findall(rf"{other}(?:_bucket)?\b", asked)) > 0, name
    assert set(re.findall(r"\bvllm:\w+", asked)) <= set(VLLM.values()) | {f"{name}_bucket" for name in VLLM.values()}


def test_labels_that_are_asked_for_are_those_of_the_metric() -> None:
    labels = {name: set(family.labels) for family in (*families.API, *meters.ENGINE) for name in shown_by(family)}
    for place, expression in expressions():
        for name, inside in re.findall(r"\b(glowl_\w+)\{([^}]*)\}", expression):
            asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside)) - {"instance", "job", "engine"}
            assert asked <= labels[name], (place, name)


def test_what_alerts_count_is_shown_before_it_happens_for_the_first_time() -> None:
    # `increase` sees no rise in a counter that begins with 1
    shown = [line for line in CountingMeters().registry.expose()[0].decode().splitlines() if not line.startswith("#")]
    looked_up = {family.name for family in families.STORED}
    rules = [rule["expr"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    counted = re.findall(r"increase\((\w+)(?:\{([^}]*)\})?\[", "\n".join(rules))
    assert len(counted) >= len(re.findall(r"increase\(", "\n".join(rules))) > 0
    for name, inside in counted:
        wanted = [name, *re.findall(r'\w+="[^"]*"', inside or "")]
        assert name in looked_up or any(all(word in line for word in wanted) for line in shown), wanted


def test_sums_over_apis_are_made_of_what_each_counts_for_itself() -> None:
    shared = [family.name for family in (*families.API, *meters.ENGINE) if family.over != "sum"]
    assert {family.name for family in families.STORED} < set(shared)
    for place, expression in expressions():
        for name in re.findall(r"\bglowl_\w+", expression):
            if name in shared:
                assert re.search(rf"\b(max|min) ?(by \([^)]*\) )?\([^()]*\(?{name}", expression), (place, name)


@promtool
def test_promtool_takes_the_configuration_and_the_rules(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY / "prometheus", tmp_path, dirs_exist_ok=True)
    config = tmp_path / "prometheus.yml"  # with the key where it is here, not where compose mounts it
    config.write_text(config.read_text().replace("/etc/glowl.key", str(tmp_path / "no-key")))
    done = subprocess.run(["promtool", "check", "config", str(config)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout


@promtool
def test_the_rules_fire_when_their_time_has_come_and_not_before() -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", str(DEPLOY / "prometheus" / "alerts_test.yml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + done.stdout
    cases = yaml.safe_load((DEPLOY / "prometheus" / "alerts_test.yml").read_text())["tests"]
    tested = {row["alertname"] for case in cases for row in case["alert_rule_test"] if row.get("exp_alerts")}
    assert tested == {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}


@promtool
def test_promtool_takes_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    asked = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, (_, expression) in enumerate(expressions())
    ]
    rules = tmp_path / "panels.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": asked}]}))
    done = subprocess.run(["promtool", "check", "rules", str(rules)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout


def test_the_dashboard_is_one_that_grafana_provisions() -> None:
    (path,) = DASHBOARDS
    found = json.loads(path.read_text())
    assert found == dashboard(), "python -m scripts.dashboard"
    assert found["uid"] == "glowl"
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    for panel in panels(found):
        assert panel["datasource"] == {"type": "prometheus", "uid": source["uid"]}, panel["title"]
    ids = [panel["id"] for panel in found["panels"]]
    assert len(set(ids)) == len(ids)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in found["panels"]]
    assert len(set(places)) == len(places)
    titles = " ".join(panel["title"] for panel in found["panels"]).lower()
    for subject in ("alert", "route", "picture", "queue", "draft", "engine", "webhook", "redis"):
        assert subject in titles
