"""Writes the pages that follow from the code, in both languages: settings, API, errors, metrics, decisions.

In: the settings' fields, the OpenAPI page, the classes of errors, the families of metrics, the headings of
`docs/decisions/`, CONTRIBUTING.md, and for the Chinese pages the YAML files beside this one. Out: files in `docs/`,
each headed by what makes it. `python -m scripts.doc_pages` writes them; `--check` names those that are out of date and
exits with 1.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal

import yaml
from markdown.extensions.toc import slugify  # type: ignore[import-untyped]

from engines import meters
from engines.base import EngineError, EngineOverloadedError
from router.app import create_app
from router.errors import BadRequestError, EngineFailedError, RouterError
from router.settings import Settings
from router.telemetry import families
from router.telemetry.worker import WORKER
from scripts.error_codes import find_codes

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
Lang = Literal["en", "zh"]


def start(title: str, source: str) -> str:
    """The head of a page: its title, and where to change it."""
    return f"# {title}\n\n<!-- Made by `python -m scripts.doc_pages` from {source}. Change that, not this page. -->\n\n"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def settings() -> dict[str, tuple[str | None, str]]:
    """Default and meaning of every setting by its variable; a default of None depends on the machine."""
    found: dict[str, tuple[str | None, str]] = {}
    for name, field in Settings.model_fields.items():
        value = field.get_default(call_default_factory=True)
        shown: str | None = str(value) if value or isinstance(value, int | float) else ""  # 0 is a default too
        if name == "data_dir":
            shown = None
        elif isinstance(value, bool):
            shown = str(value).lower()
        elif isinstance(value, tuple):
            shown = ",".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
        variable = str(field.validation_alias or f"GLOWL_{name.upper()}")
        found[variable] = (shown, field.description or "")
    return found


def settings_page(lang: Lang) -> str:
    """Every variable in tables by subject.

    Raises:
        SystemExit: if a setting has no line in `settings.yaml`, or a line there no setting.
    """
    texts: dict[str, Any] = yaml.safe_load((ROOT / "scripts/settings.yaml").read_text("utf-8"))
    known = settings()
    listed = [variable for group in texts["tables"] for variable in group["settings"]]
    if sorted(listed) != sorted(known):
        odd = sorted(set(known) ^ set(listed)) or "a variable that stands twice"
        sys.exit(f"scripts/settings.yaml and router/settings.py differ: {odd}")
    title = {"en": "Settings", "zh": "设置"}[lang]
    page: str = start(title, "router/settings.py and scripts/settings.yaml") + texts["intro"][lang]
    head = {"en": ["variable", "default", "meaning"], "zh": ["变量", "默认值", "含义"]}[lang]
    machine = {"en": "the user's data folder", "zh": "用户数据目录"}[lang]
    for group in texts["tables"]:
        rows = []
        for variable, meaning_zh in group["settings"].items():
            default, meaning = known[variable]
            shown = machine if default is None else f"`{default}`" if default else ""
            rows.append([f"`{variable}`", shown, meaning if lang == "en" else meaning_zh])
        page += f"\n## {group[lang]}\n\n{table(head, rows)}"
    return page


def subclasses(base: type[Any]) -> list[type[Any]]:
    """Every class of the product below, each before its own."""
    children = [child for child in base.__subclasses__() if _is_ours(child.__module__)]
    return [found for child in children for found in (child, *subclasses(child))]


def _is_ours(module: str) -> bool:
    """Tests define errors too, and what is a distribution of its own is not always imported."""
    return module.startswith(("router.", "engines.")) and not module.startswith("engines.owl2_vllm.")


def errors_page(lang: Lang) -> str:
    """Every refusal and failure, and what to do: by class, then the codes with a row of their own.

    Raises:
        SystemExit: if the source has a code that the page would not name, or `errors.yaml` one that the source has not.
    """
    texts: dict[str, Any] = yaml.safe_load((ROOT / "scripts/errors.yaml").read_text("utf-8"))
    head = {"en": ["status", "code", "meaning", "what to do"], "zh": ["状态码", "code", "含义", "处理办法"]}[lang]
    title = {"en": "Errors", "zh": "错误"}[lang]
    headings = {
        "en": ("From the service", "From an engine"),
        "zh": ("来自服务本身", "来自引擎"),
    }[lang]
    raised = find_codes(ROOT)
    apart = {code for group in texts["codes"] for row in group["rows"] for code in row["codes"]}
    named = set(apart)
    page: str = start(title, "router/errors.py, engines/base.py and scripts/errors.yaml") + texts["intro"][lang]
    for heading, base, meanings in zip(
        headings, (RouterError, EngineError), (texts["router"], texts["engines"]), strict=True
    ):
        rows = []
        for error in sorted(subclasses(base), key=lambda error: error.status_code):
            english = (inspect.getdoc(error) or "").partition("\n")[0]
            codes = set(raised.get(error.__name__, set()))
            if base is RouterError or "default_code" in vars(error) or not codes:
                codes |= {error.default_code}
            if error in _SPELLED_OUT:
                codes -= apart
            named |= codes
            status = (
                {"en": "the engine's", "zh": "引擎的状态码"}[lang] if error is EngineFailedError else error.status_code
            )
            said = meanings[error.__name__]
            meaning, advice = (english, said["do"]) if lang == "en" else (said["zh"], said["do_zh"])
            rows.append([str(status), _shown(codes), meaning, advice])
        page += f"\n## {heading}\n\n{table(head, rows)}"
    for group in texts["codes"]:
        rows = [[str(row["status"]), _shown(row["codes"]), *row[lang]] for row in group["rows"]]
        intro = group["intro"][lang]
        page += f"\n## {group['title'][lang]}\n\n" + (f"{intro}\n\n" if intro else "") + table(head, rows)
    _check_codes(set().union(*raised.values()), named, apart)
    return page


# Their codes have little in common.
_SPELLED_OUT = (BadRequestError, EngineFailedError, EngineOverloadedError)


def _shown(codes: Collection[str]) -> str:
    return ", ".join(f"`{code}`" for code in sorted(codes))


def _check_codes(found: set[str], named: set[str], apart: set[str]) -> None:
    if missing := sorted(found - named):
        sys.exit(f"scripts/errors.yaml does not say what these codes mean: {', '.join(missing)}")
    if gone := sorted(apart - found):
        sys.exit(f"scripts/errors.yaml has codes that nothing sends: {', '.join(gone)}")


def api_page(lang: Lang) -> str:
    """Every route by subject, and the fields of `hybrid` in requests and answers."""
    texts: dict[str, Any] = yaml.safe_load((ROOT / "scripts/api.yaml").read_text("utf-8"))
    page = start({"en": "API", "zh": "API"}[lang], "the OpenAPI page and scripts/api.yaml")
    page += {
        "en": "A running server shows all of this with examples to try at `/docs`, and as JSON at `/openapi.json`.\n",
        "zh": "运行中的服务在 `/docs` 显示全部内容并附可试用的示例，`/openapi.json` 为其 JSON 形式。\n",
    }[lang]
    openapi = create_app(Settings()).openapi()
    head = {"en": ["route", "does", "parameters"], "zh": ["路由", "作用", "参数"]}[lang]
    by_tag: dict[str, list[list[str]]] = {}
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            route = f"{method.upper()} {path}"
            text = " ".join(operation["description"].partition("\n\n")[0].split()).replace("``", "`")
            others = [found["name"] for found in operation.get("parameters", []) if found["in"] != "path"]
            row = [f"`{route}`", text if lang == "en" else texts["routes"][route], ", ".join(f"`{n}`" for n in others)]
            by_tag.setdefault(operation["tags"][0], []).append(row)
    for tag, rows in by_tag.items():
        page += f"\n## {tag.capitalize() if lang == 'en' else texts['tags'][tag]}\n\n{table(head, rows)}"
    headings = {
        "en": ("`hybrid` in a request", "`hybrid` in an answer"),
        "zh": ("请求中的 `hybrid`", "回答中的 `hybrid`"),
    }
    for heading, schema, key in zip(
        headings[lang], ("Hybrid", "HybridAnswer"), ("hybrid_in", "hybrid_out"), strict=True
    ):
        rows = []
        for name, field in openapi["components"]["schemas"][schema]["properties"].items():
            rows.append([f"`{name}`", field.get("description", "") if lang == "en" else texts[key][name]])
        page += f"\n## {heading}\n\n{table([{'en': 'field', 'zh': '字段'}[lang], head[1]], rows)}"
    return page


def decisions_page(lang: Lang) -> str:
    """One line per decision, linked, by subject in the order of the site."""
    source = "the headings of docs/decisions/*.md"
    page = start("Decisions", source) + (ROOT / "scripts/decisions.md").read_text("utf-8")
    listed = re.findall(r"- decisions/(?!index)([a-z0-9-]+)\.md", (ROOT / "mkdocs.yml").read_text("utf-8"))
    for name in listed:
        title, *headings = re.findall(r"^##? (.+)$", (DOCS / f"decisions/{name}.md").read_text("utf-8"), re.MULTILINE)
        lines = [f"- [{heading}]({name}.md#{slugify(without_code(heading), '-')})\n" for heading in headings]
        page += f"\n## [{title}]({name}.md)\n\n{''.join(lines)}"
    return page


def without_code(heading: str) -> str:
    """The words of a heading without the marks of code, as its anchor has them."""
    return heading.replace("`", "")


def contributing_page(lang: Lang) -> str:
    """CONTRIBUTING.md, whose links are from the clone's folder, as a page of the site."""
    title, _, text = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("\n\n")
    return start(title.removeprefix("# "), "CONTRIBUTING.md") + text.replace("](docs/", "](")


def metrics_page(lang: Lang) -> str:
    """How to read metrics, the alerts, and every metric with its labels.

    Raises:
        SystemExit: if a metric or an alert has no line in `metrics.yaml`, or a line there is of none.
    """
    texts: dict[str, Any] = yaml.safe_load((ROOT / "scripts/metrics.yaml").read_text("utf-8"))
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
    odd = {family.name for family in (*families.API, *WORKER, *meters.ENGINE)} ^ set(texts["zh"])
    odd |= {rule["alert"] for rule in rules} ^ set(texts["alerts_zh"])
    if odd:
        sys.exit(f"scripts/metrics.yaml and the code differ: {sorted(odd)}")
    title = {"en": "Metrics", "zh": "指标"}[lang]
    page: str = (
        start(title, "the families in router/telemetry and engines, and scripts/metrics.yaml") + texts["intro"][lang]
    )
    rows = []
    for rule in rules:
        summary, action = texts["alerts_zh"][rule["alert"]]
        if lang == "en":
            summary = re.sub(r"\{\{ (?:or )?\$labels\.(\w+)[^}]*\}\}", r"(\1)", rule["annotations"]["summary"])
            action = rule["annotations"]["action"]
        rows.append([f"`{rule['alert']}`", str(rule.get("for", "")), summary, action])
    page += f"\n## {texts['headings']['alerts'][lang]}\n\n{table(texts['alert_head'][lang], rows)}"
    for key, listed in (
        ("own", families.OWN),
        ("stored", (*families.STORED, *families.SEEN)),
        ("worker", WORKER),
        ("engine", meters.ENGINE),
    ):
        rows = [
            [
                *(f"`{family.name}`", family.kind, ", ".join(f"`{label}`" for label in family.labels)),
                *(f"`{family.over}`", family.help if lang == "en" else texts["zh"][family.name]),
            ]
            for family in listed
        ]
        page += f"\n## {texts['headings'][key][lang]}\n\n{table(texts['head'][lang], rows)}"
    return page


PAGES: dict[tuple[str, Lang], Callable[[Lang], str]] = {
    ("api", "en"): api_page,
    ("api", "zh"): api_page,
    ("errors", "en"): errors_page,
    ("errors", "zh"): errors_page,
    ("settings", "en"): settings_page,
    ("settings", "zh"): settings_page,
    ("metrics", "en"): metrics_page,
    ("metrics", "zh"): metrics_page,
    ("contributing", "en"): contributing_page,
    ("decisions/index", "en"): decisions_page,
}


def path_of(page: str, lang: Lang) -> Path:
    """Where a page is: the English one without, the Chinese one with `.zh` before `.md`."""
    return DOCS / (f"{page}.md" if lang == "en" else f"{page}.zh.md")


def main() -> None:
    """Write every page, or with `--check` name those that would change."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    only_check = arguments.parse_args().check
    stale = []
    for (page, lang), make in PAGES.items():
        path, text = path_of(page, lang), make(lang)
        if not path.exists() or path.read_text("utf-8") != text:
            stale.append(str(path.relative_to(ROOT)))
            if not only_check:
                path.write_text(text, "utf-8")
    if stale:
        print("out of date:" if only_check else "written:", *stale)
    sys.exit(bool(stale) and only_check)


if __name__ == "__main__":
    main()
