"""The texts: complete in both languages, and chosen by the usual variables."""

import re

import pytest
import typer

from router.cli.common import detect_language, parse_language
from router.cli.texts import TEXTS, say


def test_every_text_is_said_somewhere(request):
    files = (request.config.rootpath / "router" / "cli").glob("*.py")
    source = "".join(path.read_text() for path in files).replace("'", '"')
    unused = [key for key in TEXTS if f'"{key}"' not in source]
    # Keys put together from an outcome, such as f"up.{event.kind}".
    built = re.compile(
        r"redis\..*|up\.((died|gave_up)(\.said)?|stopping|killing|stopped)"
        r"|hub\..*|doctor\.(redis\.(path|wheel)|attention\.sdpa(_gpu)?|access\.(needed|free|later))"
        r"|verdict\.(pays|harms|not proven|not enough data)|replay\.(same|few|hidden)"
        r"|owners\.column\.(created|stored|capture|redact)|keys\.status\..*"
    )
    assert [key for key in unused if not built.fullmatch(key)] == []


@pytest.mark.parametrize(
    ("environ", "language"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "zh_TW"}, "zh"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN"}, "zh"),
        ({"LANG": "de_DE"}, "en"),
    ],
)
def test_the_locale_chooses_the_language(environ, language):
    assert detect_language(environ) == language


def test_the_option_wins_and_an_unknown_language_is_refused(monkeypatch):
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    assert parse_language(None) == "en"
    assert parse_language("zh-CN") == "zh"
    with pytest.raises(typer.BadParameter):
        parse_language("fr")


def test_a_sentence_is_filled_in():
    assert say("doctor.port.free", "en", port=8000) == "8000 is free"
    assert say("doctor.port.free", "zh", port=8000) == "8000 空闲"
