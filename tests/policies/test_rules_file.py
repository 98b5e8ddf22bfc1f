"""A preset file in use: a good edit counts at once, a bad one keeps the last good rules and tells why."""

import os

import pytest

from policies import rules as module
from policies.rules import RulesError, RulesFile

ONE = "version: 1\nname: one\nsummary: s\nrules:\n  - {name: a, route: fast}\n"
TWO = ONE.replace("name: one", "name: two")


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(ONE)
    return file


def _edit(path, text, later):
    """Write a file whose time differs, however coarse the clock of the file system is."""
    path.write_text(text)
    os.utime(path, ns=(later * 10**9, later * 10**9))


def test_a_good_edit_counts_at_the_next_look(path):
    file = RulesFile(path)
    assert file.current().name == "one"

    _edit(path, TWO, later=2)

    assert (file.current().name, file.error) == ("two", None)


def test_a_bad_edit_keeps_the_last_good_rules_until_it_is_mended(path):
    file = RulesFile(path)

    _edit(path, TWO.replace("fast", "fats"), later=2)
    assert file.current().name == "one"
    assert file.error is not None
    assert "mine.yaml, line 5" in file.error

    _edit(path, TWO, later=3)
    assert (file.current().name, file.error) == ("two", None)


def test_a_file_that_vanishes_changes_nothing_but_the_error(path):
    file = RulesFile(path)

    path.unlink()

    assert file.current().name == "one"
    assert "cannot be read" in str(file.error)


def test_an_unchanged_file_is_not_read_again_good_or_bad(path, monkeypatch):
    file = RulesFile(path)
    reads = []
    monkeypatch.setattr(module, "load_rules", lambda path: reads.append(path) or module._load(path, "x"))

    file.current()
    _edit(path, "nonsense", later=2)
    for _ in range(3):
        file.current()

    assert len(reads) == 1


def test_there_is_no_start_without_good_rules(tmp_path):
    with pytest.raises(RulesError, match="cannot be read"):
        RulesFile(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("section", "line", "said"),
    [
        ("dial: 2", 4, "dial: Input should be less than or equal to 1, not 2"),
        ("quotas: {deep: 1.5}", 4, "quotas.deep"),
        ("quotas: {owl2: 1}", 4, "accepted: fast, deep"),
        ("canary: {share: 0.1}", 4, "canary.route: is missing"),
        ("canary: {share: 0.1, route: fast, rate: 1}", 4, "accepted: share, route, engine, enable_thinking"),
        ("keys:\n  ops: {dail: 1}", 5, "accepted: dial, route, quotas"),
        ("keys:\n  ops: {quotas: {slow: 1}}", 5, "accepted: fast, deep"),
        ("sticky: perhaps", 4, "sticky"),
    ],
)
def test_a_fault_in_a_section_is_named_with_its_line(path, section, line, said):
    path.write_text(ONE.replace("rules:", f"{section}\nrules:"))

    with pytest.raises(RulesError) as refusal:
        RulesFile(path)

    assert f"line {line}: " in str(refusal.value)
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("{name: a, route: fast, panel: [glm, owl2]}", "`route: deep` is expected"),
        ("{name: a, route: deep, panel: [owl2]}", "two or three different arms"),
        ("{name: a, route: deep, panel: [owl2, owl2]}", "two or three different arms"),
        ("{name: a, route: deep, panel: [glm, glm-thinking]}", "`owl2` gives the final answer"),
        ("{name: a, route: deep, engine: glm, panel: [glm-thinking, owl2]}", "`glm` gives the final answer"),
        ("{name: a, route: deep, panel: [glm, gpt]}", "'glm', 'glm-thinking' or 'owl2'"),
    ],
)
def test_a_panel_is_several_different_arms_with_the_final_one_among_them(path, rule, said):
    path.write_text(ONE.replace("{name: a, route: fast}", rule))

    with pytest.raises(RulesError, match=r"line 5: rules\.0") as refusal:
        RulesFile(path)

    assert said in str(refusal.value)


def test_all_sections_together_are_a_valid_preset(path):
    path.write_text(
        ONE.replace(
            "rules:",
            "dial: 0.7\nsticky: true\nquotas: {deep: 0.3}\ncanary: {share: 0.05, route: deep, engine: glm}\n"
            "keys:\n  ops: {dial: 0, route: fast, quotas: {deep: 1}}\nrules:",
        )
    )

    rules = RulesFile(path).current()

    assert (rules.dial, rules.is_sticky, rules.quotas.deep, rules.keys["ops"].route) == (0.7, True, 0.3, "fast")
