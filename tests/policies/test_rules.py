"""Presets are valid or refused whole, with file, line and what would be accepted."""

import re

import pytest

from policies.rules import RulesError, load_preset, load_rules, preset_names

GOOD = """\
version: 1
name: mine
summary: two rules
rules:
  - name: many
    when: {num_images: {at_least: 2}}
    route: deep
  - name: rest
    route: fast
"""


def test_every_shipped_preset_is_valid_and_carries_its_own_name():
    assert {"seed", "glm-only", "owl2-only", "glm-thinking", "panel"} == set(preset_names())
    for name in preset_names():
        assert load_preset(name).name == name


def test_an_unknown_preset_is_refused_with_the_names_there_are():
    with pytest.raises(RulesError, match="glm-only, glm-thinking, owl2-only, panel, seed"):
        load_preset("../seed")


def test_a_valid_file_loads(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)

    assert [rule.name for rule in load_rules(path).rules] == ["many", "rest"]


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("    route: deep", "    route: deeep", 7, "'fast' or 'deep'"),
        ("num_images", "num_pictures", 6, "num_pictures: is not measured; accepted: language,"),
        ("{at_least: 2}", "{at_last: 2}", 6, "not a known key; accepted: is, at_least, below"),
        ("{at_least: 2}", "{is: 2}", 6, "valid"),
        ("{at_least: 2}", "{is: 'two'}", 6, "is a number; it takes `at_least` and/or `below`"),
        ("{at_least: 2}", "{}", 6, "give either `is`, or `at_least` and/or `below`"),
        ("{at_least: 2}", "{is: true, below: 3}", 6, "give either `is`"),
        ("{at_least: 2}", "{at_least: 3, below: 2}", 6, "must be smaller"),
        ("{at_least: 2}", "{at_least: .nan}", 6, "finite"),
        ("{num_images: {at_least: 2}}", "{language: {is: fr}}", 6, "takes `is` with one of: zh, en, other, none"),
        ("{num_images: {at_least: 2}}", "{is_interactive: {at_least: 1}}", 6, "takes `is` with true or false"),
        ("    route: deep\n", "", 5, "is missing"),
        ("summary: two rules\n", "", 1, "summary: is missing"),
        ("version: 1", "version: 2", 1, "1, not 2"),
        ("version: 1", "version: 1\nspeed: 9\nsticky: true", 2, "max_queue_age_s, dial, sticky, quotas, canary, keys"),
        ("version: 1", "version: 1\nquotas: {slow: 1}", 2, "accepted: fast, deep"),
        ("version: 1", "version: 1\ncanary: {shares: 1}", 2, "accepted: share, route, engine, enable_thinking"),
        ("version: 1", "version: 1\nkeys: {ops: {speed: 1}}", 2, "accepted: dial, route, quotas"),
        ("version: 1", "version: 1\nkeys: {ops: {quotas: {slow: 1}}}", 2, "accepted: fast, deep"),
        ("version: 1", "version: 1\nspeed: 9", 2, "accepted: version, name, summary, assumed_deep_ms"),
        ("version: 1", "version: 1\nmax_queue_age_s: {glm: -1}", 2, "greater than 0, not -1"),
        ("version: 1", "version: 1\nmax_queue_age_s: {gpt: 1}", 2, "accepted: glm, owl2"),
        ("    route: fast", "    route: fast\n    colour: red", 10, "accepted: name, when, route, engine"),
        ("name: rest", "name: many", 8, "two rules are named `many`"),
        ("    when: {num_images: {at_least: 2}}\n", "", 5, "must be the last rule"),
        (
            "    route: fast",
            "    when: {num_images: {below: 2}}\n    route: fast",
            9,
            "the last rule must have no `when`",
        ),
        ("name: rest", "name: The Rest", 8, "should match pattern"),
        ("    route: deep", "    route: deep\n    route: fast", 8, "`route` is given twice"),
        ("    route: deep", "    route: [deep", 8, "valid YAML is expected"),
        ("name: many", "name: &n many\n    engine: *n", 6, "aliases"),
    ],
)
def test_a_fault_is_named_with_its_line_and_what_is_accepted(tmp_path, old, new, line, said):
    assert old in GOOD
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace(old, new, 1))

    with pytest.raises(RulesError) as refusal:
        load_rules(path)

    message = str(refusal.value)
    assert f"mine.yaml, line {line}:" in message
    assert said in message


def test_all_faults_are_named_at_once(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace("route: deep", "route: up").replace("route: fast", "route: down"))

    with pytest.raises(RulesError) as refusal:
        load_rules(path)

    assert re.findall(r"line (\d+):", str(refusal.value)) == ["7", "9"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"- 1\n",
        b"42\n",
        b"\xff\xfe\x00",
        b"&a [*a]\n",
        b"!!python/object:os.system {}\n",
        b"\x00",
        b"a: b\n---\nc: d\n",
        b"[" * 5000,
        b"version: 1\nname: a\nsummary: s\nrules: []\n",
    ],
)
def test_what_is_no_preset_at_all_is_refused_not_crashed_on(tmp_path, content):
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)

    with pytest.raises(RulesError, match=r"odd\.yaml"):
        load_rules(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(RulesError, match="cannot be read"):
        load_rules(tmp_path / "nowhere.yaml")
