"""README and docs say the same in both languages, and what they say can be typed: commands, variables, files."""

from __future__ import annotations

import ast
import builtins
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from router.api.routes.webhooks import EndpointUpdate
from router.cli.main import app as cli
from router.cli.models import FULL_MODELS, MODEL_CHOICES
from router.settings import Settings
from scripts.doc_pages import PAGES, Lang, path_of
from tests.docs.pages import ALL, PAIRS, ROOT, Page

EACH = pytest.mark.parametrize("page", ALL, ids=str)
EACH_WITH_BLOCKS = pytest.mark.parametrize("page", [page for page in ALL if page.blocks], ids=str)
EACH_PAIR = pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=[str(page) for page, _ in PAIRS])
README_BYTES = 8000
COMMANDS = get_command(cli).commands  # type: ignore[attr-defined]
REPOSITORY = "https://github.com/glowl/glowl/blob/main/"


def test_every_chinese_page_has_an_english_one() -> None:
    found = {ROOT / "README.zh.md", *(ROOT / "docs").rglob("*.zh.md")}
    assert {chinese.path for _, chinese in PAIRS} == found


@EACH_PAIR
def test_both_have_the_same_structure(english: Page, chinese: Page) -> None:
    assert english.heading_levels == chinese.heading_levels
    assert [len(row) for row in english.rows] == [len(row) for row in chinese.rows]
    assert english.num_bullets == chinese.num_bullets


@EACH_PAIR
def test_both_have_the_same_commands(english: Page, chinese: Page) -> None:
    assert english.blocks == chinese.blocks


@EACH_PAIR
def test_both_name_the_same_things_in_code_font(english: Page, chinese: Page) -> None:
    assert english.names == chinese.names


@EACH_PAIR
def test_chinese_prose_has_full_width_punctuation(english: Page, chinese: Page) -> None:
    # Given the prose without code and links
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)|<!--.*?-->|https?://\S+", " ", chinese.prose, flags=re.DOTALL)
    # Then no half-width mark stands right behind or before a Chinese character
    assert re.findall(r"[\u4e00-\u9fff] *[,;?!]|[\u4e00-\u9fff][.:]|[,;?!:.][\u4e00-\u9fff]", prose) == []


@pytest.mark.parametrize("page", list(PAIRS[0]), ids=str)
def test_the_readmes_stay_short(page: Page) -> None:
    assert len(page.path.read_bytes()) <= README_BYTES


@pytest.mark.parametrize(("name", "lang"), PAGES)
def test_generated_pages_are_up_to_date(name: str, lang: Lang) -> None:
    on_disk = path_of(name, lang).read_text("utf-8")
    assert PAGES[name, lang](lang) == on_disk, "run: python -m scripts.doc_pages"


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_defaults_of_the_settings_page_are_what_settings_take(lang: Lang, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given the environment that the page shows
    for variable, shown, _ in (row for row in Page(path_of("settings", lang)).rows if "_" in row[0]):
        if shown.startswith("`"):
            monkeypatch.setenv(variable.strip("`"), shown.strip("`"))
    # Then it is the same as none
    assert Settings() == Settings.model_construct()


def test_decisions_are_dated_and_stand_in_their_folder_alone() -> None:
    for page in (ROOT / "docs/decisions").glob("*.md"):
        if page.name != "index.md":
            parts = re.split(r"^## .+\n\n", page.read_text("utf-8"), flags=re.MULTILINE)[1:]
            assert parts
            assert [part for part in parts if not re.match(r"\*20\d\d-\d\d-\d\d\.\* \S", part)] == []
    for folder in ("router", "engines", "policies", "training", "tests"):
        for readme in (ROOT / folder).rglob("README.md"):
            found = re.findall(r"^\*\*20\d\d-.*", readme.read_text("utf-8"), re.MULTILINE)
            assert found == [], f"{readme}: decisions go to docs/decisions"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stderr
    # Then both languages are there, and no page loads anything from another server
    assert (tmp_path / "zh" / "quickstart.html").is_file()
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|iframe)[^>]+src="(https?:[^"]+)|<link[^>]+href="(https?:[^"]+)', page.read_text()
        )
        assert loaded == [], page


@EACH
def test_every_link_leads_to_a_file_and_a_heading(page: Page) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.prose):
        if target.startswith("http") and not target.startswith(REPOSITORY):
            continue
        base, name = (ROOT, target[len(REPOSITORY) :]) if target.startswith("http") else (page.path.parent, target)
        file = (base / name.partition("#")[0]) if not name.startswith("#") else page.path
        assert file.exists(), target
        if page.path.name.endswith(".zh.md") and file.suffix == ".md" and file.with_suffix(".zh.md").exists():
            assert target.startswith(("README", "../README")), f"{target} has a Chinese page"


@EACH_WITH_BLOCKS
def test_python_examples_compile(page: Page) -> None:
    for language, code in page.blocks:
        if language == "python":
            compile(code, str(page), "exec")


@EACH_WITH_BLOCKS
def test_python_examples_use_only_names_that_they_or_earlier_ones_define(page: Page) -> None:
    # A webhook's body and headers come from the reader's own web framework
    known = {*dir(builtins), "headers", "body"}
    for language, code in page.blocks:
        if language != "python":
            continue
        used = set()
        for node in ast.walk(ast.parse(code)):
            match node:
                case ast.Name(id=name, ctx=ast.Load()):
                    used.add(name)
                case ast.Name(id=name) | ast.arg(arg=name) | ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                    known.add(name)
                case ast.alias(name=name, asname=other):
                    known.add(other or name)
        assert used - known == set()


@EACH
def test_every_glowl_command_parses(page: Page) -> None:
    # Then the command line knows each, those that end in an open option aside
    for command in page.glowl_commands:
        name, *arguments = shlex.split(command)
        known = COMMANDS[name]
        if arguments and arguments[-1] != "--models":
            known.make_context(name, arguments)


def test_every_command_is_described_somewhere() -> None:
    described = {command.split()[0] for english, _ in PAIRS for command in english.glowl_commands}
    assert described == set(COMMANDS)


@EACH
def test_make_targets_exist(page: Page) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:`|^)(?:[A-Z_]+=\S+ )?make ([a-z-]+)", page.text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", [Page(ROOT / "docs/models.md"), Page(ROOT / "docs/models.zh.md")], ids=str)
def test_the_models_table_is_complete(page: Page) -> None:
    listed = [row[0].strip("`") for row in page.rows if row[0].strip("`") in MODEL_CHOICES]
    assert listed == list(MODEL_CHOICES)
    assert all(f"`{model.hub_id}`" in page.text for model in FULL_MODELS.values())
    assert f"{sum(model.size_bytes for model in FULL_MODELS.values()) / 1e9:.0f} GB" in page.text


@pytest.mark.parametrize("page", [Page(ROOT / "docs/webhooks.md"), Page(ROOT / "docs/webhooks.zh.md")], ids=str)
def test_the_webhooks_page_has_every_field_of_an_endpoint(page: Page) -> None:
    named = [row[0].strip("`") for row in page.rows if row[0].strip("`") in EndpointUpdate.model_fields]
    assert named == list(EndpointUpdate.model_fields)


@EACH
def test_every_file_named_exists(page: Page) -> None:
    named = re.findall(
        r"`((?:policies|engines|router|tests|deploy|scripts|benchmarks|examples)/[\w./]*|[\w.]+\.yaml|LICENSE)`",
        page.prose,
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_contributing_answers_where_to_change_what() -> None:
    rows = {row[0]: " ".join(row[1:]) for row in Page(ROOT / "CONTRIBUTING.md").rows if len(row) == 3}
    for question in ("routing rule", "merge rule", "response header", "Lua", "batch size", "webhook's backoff"):
        (answer,) = [answer for asked, answer in rows.items() if question in asked]
        # Then files and tests exist, and a name in front of its file is in that file
        files = re.findall(r"`([\w/.]+(?:\.py|\.yaml|\.lua|/))`", answer)
        assert len(files) >= 2
        assert [file for file in files if not (ROOT / file).exists()] == []
        for name, file in re.findall(r"`(\w+)` in `([\w/.]+)`", answer):
            assert re.search(rf"\b{name}\b", (ROOT / file).read_text("utf-8")), f"{name} is not in {file}"


@EACH_WITH_BLOCKS
def test_every_file_that_an_example_reads_exists_or_is_written_by_it(page: Page) -> None:
    code = "\n".join(code for _, code in page.blocks).replace("-{1,2}.png", "-1.png").replace("{number}", "1")
    written = {name for pair in re.findall(r'cat > (\S+)|Path\("(\S+?)"\)\.write_text', code) for name in pair}
    names = set(re.findall(r"[\w./-]+\.(?:png|jpe?g|jsonl|csv)\b", code))
    assert {name for name in names if not (ROOT / name).is_file()} - written == set()
