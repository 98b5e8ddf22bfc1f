"""Collectors of a process: labels stay few and harmless, what is looked up is shown or not, apps share nothing."""

from __future__ import annotations

from engines.metrics import OTHER, Bounded, Family, Looked, Registry

ASKED = Family("asked_total", "counter", "Asked.", ("who",))
SEEN = Family("seen", "gauge", "Seen.", ("what",), over="max")


def test_a_label_has_at_most_so_many_values() -> None:
    label = Bounded(most=2)
    assert [label(word) for word in ("a", "b", "c", "a")] == ["a", "b", OTHER, "a"]


def test_a_label_is_a_word() -> None:
    label = Bounded()
    words = ["", "中文", 'a"', "a b", "a\n", "A", "x" * 65, "../etc"]
    assert {label(word) for word in words} == {OTHER}
    assert label("several-pictures") == "several-pictures"


def test_what_is_looked_up_is_shown_while_it_is_there() -> None:
    looked = Looked([SEEN])
    registry = Registry([], looked)
    assert b"seen" not in registry.expose()[0]
    looked.values = {"seen": [(("door",), 2.0)]}
    assert b'seen{what="door"} 2.0' in registry.expose()[0]


def test_two_registries_share_nothing() -> None:
    one, other = Registry([ASKED]), Registry([ASKED])
    one.counter(ASKED).labels("me").inc()
    assert b'asked_total{who="me"} 1.0' in one.expose()[0]
    assert b"who=" not in other.expose()[0]
    assert b"_created" not in one.expose()[0]
    assert b"process_cpu_seconds_total" in one.expose()[0]
