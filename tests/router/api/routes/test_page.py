"""The page's files over HTTP: who gets what, how long it is kept, and what the browser may do with it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import router
from router.api.page_files import PageFiles
from router.app import create_app
from router.settings import Settings
from tests.support.servers import AppServer

UI = Path(router.__file__).parent / "ui"
# In gzip: what is loaded before the first question, and with every view looked at.
MAX_FIRST_BYTES = 100_000
MAX_ALL_BYTES = 130_000
BROWSER = {"accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", "accept-encoding": "gzip, br"}


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    """An api with keys and nothing behind it: the files need neither."""
    server = AppServer(create_app(Settings(REDIS_URL="redis://127.0.0.1:1/0", api_keys="secret")))
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        yield client
    server.stop()


def test_a_browser_is_sent_to_the_page_and_a_client_is_told_what_is_here(http: httpx.Client) -> None:
    browser = http.get("/", headers=BROWSER)
    assert (browser.status_code, browser.headers["location"]) == (307, "/ui/")
    client = http.get("/", headers={"accept": "*/*"})
    assert client.json()["page"] == "/ui/"
    assert browser.headers["vary"] == client.headers["vary"] == "accept"


@pytest.mark.parametrize("path", ["/ui", "/ui/"])
def test_the_page_is_asked_for_anew_and_its_files_are_kept_for_ever(http: httpx.Client, path: str) -> None:
    # Given the page, without a key
    page = http.get(path, headers=BROWSER)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    # Then a browser that has it is told so
    again = http.get(path, headers={**BROWSER, "if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    # And every file that it names is there, to be kept
    named = re.findall(r'(?:src|href)="(/ui/a/[^"]+)"', page.text)
    assert len(named) > 3
    for each in named:
        file = http.get(each, headers=BROWSER)
        assert file.status_code == 200, each
        assert "immutable" in file.headers["cache-control"]
        assert file.headers["content-encoding"] == "gzip"
        assert http.get(each, headers={"if-none-match": file.headers["etag"]}).status_code == 304


def test_a_client_without_gzip_gets_plain_bytes(http: httpx.Client) -> None:
    plain = http.get("/ui/a/any/app.js", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == (UI / "app.js").read_bytes()


def test_files_of_another_version_are_not_kept(http: httpx.Client) -> None:
    assert http.get("/ui/a/0123456789abcdef/app.js").headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["no.js", "../errors.py", "..%2ferrors.py", "%2e%2e/errors.py", "vendor", ""])
def test_nothing_else_is_served(http: httpx.Client, path: str) -> None:
    answer = http.get(f"/ui/a/any/{path}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_a_browser_loads_from_here_only_and_runs_nothing_inline(http: httpx.Client) -> None:
    for path in ("/ui/", "/ui/a/any/app.js", "/ui/a/any/samples/count.png"):
        headers = http.get(path, headers=BROWSER).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'self'"
        assert "unsafe" not in headers["content-security-policy"]
        assert "script-src" not in policy
        assert policy["frame-ancestors"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
    page = (UI / "index.html").read_text("utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page)


def test_a_new_file_changes_the_address_of_all(tmp_path: Path) -> None:
    # Given the files of a page
    (tmp_path / "index.html").write_text('<script src="/ui/a/%VERSION%/app.js"></script>')
    (tmp_path / "app.js").write_text("1")
    before = PageFiles({"": tmp_path})
    first = before.find("index.html")
    # When one of them changes, and the process starts again
    (tmp_path / "app.js").write_text("2")
    after = PageFiles({"": tmp_path})
    second = after.find("index.html")
    # Then the page names another address, and has another ETag
    assert first is not None
    assert second is not None
    assert before.version.encode() in first.plain()
    assert after.version.encode() in second.plain()
    assert first.etag != second.etag


def imports(path: Path) -> list[str]:
    """What a script names as another one, whether at once or later."""
    text = re.sub(r"^\s*(//|\*).*$", "", path.read_text("utf-8"), flags=re.MULTILINE)
    return re.findall(r"""(?:\bfrom|\bimport\(?)\s*["']([^"'\s]+)["']""", text)


def loaded_first() -> set[Path]:
    """The page, what it names, and what those import at once."""
    page = (UI / "index.html").read_text("utf-8")
    found: set[Path] = {UI / "index.html"}
    left = [UI / name for name in re.findall(r'"/ui/a/%VERSION%/([^"]+)"', page)]
    while left:
        path = left.pop()
        if path not in found:
            found.add(path)
            left += [(path.parent / name).resolve() for name in imports(path) if path.suffix == ".js"]
    return found


def test_the_page_is_light() -> None:
    files = PageFiles()
    loaded = (".js", ".css", ".html", ".svg")
    sizes = {
        path: len(asset.data)
        for path in UI.rglob("*")
        if path.suffix in loaded and (asset := files.find(path.relative_to(UI).as_posix()))
    }
    assert sum(sizes[path] for path in loaded_first()) <= MAX_FIRST_BYTES
    assert sum(sizes.values()) <= MAX_ALL_BYTES


def test_what_is_wanted_at_once_is_asked_for_at_once() -> None:
    # Given what the first view loads: a browser that finds imports one behind the other asks again and again
    preloaded = set(re.findall(r'"/ui/a/%VERSION%/([^"]+)"', (UI / "index.html").read_text("utf-8")))
    assert {path.relative_to(UI).as_posix() for path in loaded_first()} - {"index.html"} == preloaded


def test_the_libraries_are_those_that_the_readme_names() -> None:
    rows = re.findall(r"^\| ([\w.-]+) \| .* \| ([0-9a-f]{64}) \|$", (UI / "vendor/README.md").read_text(), re.MULTILINE)
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (UI / "vendor").glob("*.*s")}
    assert dict(rows) == hashes


def test_scripts_import_only_what_is_here() -> None:
    # Given every import of every script
    for path in UI.rglob("*.js"):
        for name in imports(path):
            # Then it names a file beside it: bare names need an import map, which is an inline script
            assert name.startswith("."), (path.name, name)
            assert (path.parent / name).is_file(), (path.name, name)
        assert "sourceMappingURL" not in path.read_text("utf-8")


def texts() -> dict[str, list[str]]:
    """The page's sentences by key: English, Chinese."""
    source = (UI / "core/texts.js").read_text("utf-8")
    found: dict[str, list[str]] = json.loads(source[source.index("{") : source.rindex("}") + 1])
    return found


def test_every_sentence_is_there_in_both_languages() -> None:
    for key, pair in texts().items():
        english, chinese = pair
        assert english, key
        assert chinese, key
        assert sorted(re.findall(r"\{\w+\}", english)) == sorted(re.findall(r"\{\w+\}", chinese)), key
        assert not re.search(r"[\u4e00-\u9fff]", english), key
        assert not re.search(r"[\u4e00-\u9fff][,;:?!()]|[,;?!()][\u4e00-\u9fff]", chinese), key


def test_every_sentence_is_used_and_none_is_missing() -> None:
    # Given the keys that scripts name as whole strings, and the beginnings of those that they put together
    scripts = [path for path in UI.rglob("*.js") if path.name != "texts.js" and "vendor" not in path.parts]
    source = "\n".join(path.read_text("utf-8") for path in scripts)
    named = set(re.findall(r"""\bt\(\s*["']([\w.-]+)["']""", source))
    begun = tuple(re.findall(r"`([a-z.]+\.)\$\{", source))
    keys = texts().keys()
    assert named - keys == set()
    quoted = set(re.findall(r"""["']([\w.-]+)["']""", source))
    assert {
        key for key in keys - quoted if not key.startswith(begun) and key.removesuffix(".long") not in quoted
    } == set()
