"""`glowl explain`: where a question would go, and why, decided here by the code that the service runs.

In: a question, pictures or only their number, hints. Out: the decision and what was measured. Needs no running service.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os.path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from router.cli.common import Language, LanguageOption, fail, load_settings, parse_language
from router.cli.policy import score_as_set
from router.cli.texts import say
from router.questions import is_empty

if TYPE_CHECKING:
    from policies.rules import Rules

Route = Literal["auto", "fast", "deep"]
ROUTES: dict[str, Route] = {"auto": "auto", "fast": "fast", "deep": "deep"}


def explain(
    arguments: Annotated[
        list[str], typer.Argument(metavar="[PICTURE]... QUESTION", help="Picture files or URLs, then the question.")
    ],
    num_images: Annotated[
        int | None, typer.Option("--images", min=0, max=64, help="Decide as if so many different pictures came along.")
    ] = None,
    route: Annotated[str, typer.Option(metavar="auto|fast|deep", help="What the caller asks for.")] = "auto",
    engine: Annotated[str | None, typer.Option(metavar="glm|owl2", help="The engine that the caller names.")] = None,
    deadline_ms: Annotated[int | None, typer.Option(min=0, help="The caller's deadline, milliseconds.")] = None,
    dial: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="0 = latency, 1 = depth; default the preset's own.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Preset name or YAML file; default GLOWL_PRESET or `seed`.")
    ] = None,
    queue_ages: Annotated[
        list[str] | None,
        typer.Option("--queue-age", metavar="ENGINE=SECONDS", help="Decide as if an engine's queue were so old."),
    ] = None,
    job_ms: Annotated[
        int | None, typer.Option(min=0, help="Decide as if a job took so long, milliseconds; default the preset's.")
    ] = None,
    has_tools: Annotated[bool, typer.Option("--tools", help="Decide as if functions were offered.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print decision and features as JSON.")] = False,
    lang: LanguageOption = None,
) -> None:
    """Say where a question would go, and why; offline."""
    language = parse_language(lang)
    if route not in ROUTES:
        raise typer.BadParameter(f"{route!r} is none of {', '.join(ROUTES)}", param_hint="--route")
    if engine not in (None, "glm", "owl2"):
        raise typer.BadParameter(f"{engine!r} is none of glm, owl2", param_hint="--engine")
    ages = dict(_parse_age(text) for text in queue_ages or [])
    *pictures, text = arguments
    if pictures and num_images is not None:
        raise typer.BadParameter("give either pictures or their number", param_hint="--images")
    if os.path.isfile(text):
        fail(say("ask.question.missing", language, value=text), code=2)
    if is_empty(text):
        fail(say("ask.question.empty", language), code=2)

    from policies import decide as policy
    from policies import explain as telling
    from policies.context import Context
    from policies.decision import EngineHealth, Health
    from policies.features import Hints, Question, measure

    keys = tuple(picture_key(picture, language) for picture in pictures) or tuple(
        f"picture-{number}" for number in range(1, (num_images or 0) + 1)
    )
    settings = score_as_set(load_settings())
    rules = _load_rules(preset or settings.preset)
    question = Question(text=text, image_keys=keys, uses_tools=has_tools)
    features = measure(question, Hints(ROUTES[route], engine, deadline_ms=deadline_ms))
    # Offline, both engines count as up, and idle unless it is said otherwise.
    health = Health({name: EngineHealth(queue_age_s=age_s) for name, age_s in ages.items()}, job_ms)
    decision = policy.decide(features, rules, health, Context(dial=dial))
    is_told = bool(ages) or job_ms is not None
    explanation = telling.explain(decision, features, language, health if is_told else None)
    if as_json:
        import orjson

        found = {**decision.to_dict(), "features": dataclasses.asdict(features), "explanation": explanation}
        typer.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
    else:
        typer.echo(explanation)


def _parse_age(text: str) -> tuple[str, float]:
    """Read ``owl2=400``.

    Raises:
        typer.BadParameter: if it is something else.
    """
    name, _, age = text.partition("=")
    with contextlib.suppress(ValueError):
        if name in ("glm", "owl2") and 0 <= float(age) < float("inf"):
            return name, float(age)
    raise typer.BadParameter(f"{text!r} is not ENGINE=SECONDS, such as owl2=400", param_hint="--queue-age")


def picture_key(picture: str, language: Language) -> str:
    """What tells one picture from another: the hash of a file's bytes, or the address of one that is not fetched.

    Raises:
        typer.Exit: after one line, if the file cannot be read.
    """
    from router.cli.pictures import PictureError, is_url, read_picture

    if is_url(picture):
        return picture
    try:
        return hashlib.sha256(read_picture(picture, language)[0]).hexdigest()
    except PictureError as error:
        fail(str(error), code=2)


def _load_rules(preset: str) -> Rules:
    from policies.rules import RulesError, load_preset, load_rules

    try:
        return load_rules(preset) if preset.endswith((".yaml", ".yml")) else load_preset(preset)
    except RulesError as error:
        fail(str(error), code=2)
