"""The tools: what each is called, takes and asks.

In: a tool's name and its arguments. Out: a `Question` for the service, or an `ArgumentsError`. The lower half of the
table has the names and parameters that agents know from the server of the model's maker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from policies.text import NOTHING, Language, Text, TextError
from router.mcp import texts
from router.templates import NAMES

Json = dict[str, Any]
# The shortest of the clients' own time-outs is 60 s; the rest of them is for what lies between.
PATIENCE_S: Final = 45.0
MAX_PATIENCE_S: Final = 3600.0


class ArgumentsError(TextError):
    """Arguments that a tool cannot take; the message says what it takes."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a call asks the service.

    Attributes:
        text: the question.
        sources: of its pictures, in order.
        tell: what the models are told beside the question.
        route: as `hybrid.route` has it.
        merge: as `hybrid.merge` has it; None leaves it alone.
        schema: of the answer, if it is to be JSON.
        template: of the answer, instead of a schema.
    """

    text: str
    sources: tuple[str, ...]
    tell: Text = NOTHING
    route: Literal["auto", "fast", "deep"] = "auto"
    merge: Literal["compose"] | None = None
    schema: Json | None = None
    template: str | None = None

    def to_body(self, image_urls: list[str]) -> Json:
        """Return the request body: a job, so that it outlives the call, and a stream, so that its draft is heard."""
        content: list[Json] = [{"type": "input_text", "text": self.text}]
        content += [{"type": "input_image", "image_url": url, "detail": "auto"} for url in image_urls]
        hybrid: Json = {"draft": "message", "route": self.route}
        body: Json = {"model": "glowl", "background": True, "stream": True, "hybrid": hybrid}
        body["input"] = [{"role": "user", "content": content}]
        if self.tell != NOTHING:
            body["instructions"] = self.tell.of(language_of(self.text))
        if self.merge is not None:
            hybrid["merge"] = self.merge
        if self.template is not None:
            hybrid["template"] = self.template
        if self.schema is not None:
            body["text"] = {"format": {"type": "json_schema", "name": "fields", "schema": self.schema}}
        return body


def language_of(text: str) -> Language:
    """Chinese if there is a Chinese character in it: what the models are told is in the question's language."""
    return "zh" if any("\u4e00" <= char <= "\u9fff" for char in text) else "en"


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter.

    Attributes:
        name: as the agent writes it.
        schema: its JSON Schema.
        text: what it is for.
        is_required: a call without it is refused.
    """

    name: str
    schema: Json
    text: Text
    is_required: bool = False


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool.

    Attributes:
        name: as the agent calls it.
        text: what it does.
        params: what it takes.
        to_question: makes what is asked of checked arguments and the language of the server's own texts; None for
            `refined`, which asks nothing.
    """

    name: str
    text: Text
    params: tuple[Param, ...]
    to_question: Callable[[Json, Language], Question] | None

    def schema(self, language: Language) -> Json:
        """The JSON Schema of its arguments, described in one language."""
        return {
            "type": "object",
            "properties": {each.name: {**each.schema, "description": each.text.of(language)} for each in self.params},
            "required": [each.name for each in self.params if each.is_required],
            "additionalProperties": False,
        }

    def check(self, arguments: Mapping[str, Any]) -> Json:
        """Return the arguments as the tool takes them; null, and nothing for what may be left out, are left out.

        Models often write one picture where a list is wanted, and a list or a number as text; what is meant is clear.

        Raises:
            ArgumentsError: if one is missing, unknown or of another kind.
        """
        by_name = {each.name: each for each in self.params}
        optional = {each.name for each in self.params if not each.is_required}
        given = {
            name: value
            for name, value in arguments.items()
            if value is not None and not (_is_blank(value) and name in optional)
        }
        for name, value in given.items():
            if (param := by_name.get(name)) is None:
                known = ", ".join(f"'{each}'" for each in by_name)
                raise ArgumentsError(texts.UNKNOWN_ARGUMENT.fill(tool=self.name, name=name[:64], known=known))
            given[name] = _as_meant(value, param.schema["type"])
        for param in self.params:
            if param.name not in given:
                if param.is_required:
                    raise ArgumentsError(texts.MISSING.fill(name=param.name, about=param.text))
            elif _is_blank(given[param.name]):
                raise ArgumentsError(
                    texts.WRONG_ARGUMENT.fill(name=param.name, wanted=texts.WANTED_TEXT, about=param.text)
                )
            elif wrong := best_match(Draft202012Validator(param.schema).iter_errors(given[param.name])):
                wanted = _wanted(wrong, param.schema)
                raise ArgumentsError(texts.WRONG_ARGUMENT.fill(name=param.name, wanted=wanted, about=param.text))
        return given


def _is_blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def _as_meant(value: Any, kind: str) -> Any:
    if not isinstance(value, str):
        return value
    if kind == "array" and not value.lstrip().startswith("["):
        return [value]
    if kind in ("array", "object", "number"):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def _wanted(error: ValidationError, schema: Json) -> Text:
    if "enum" in schema:
        return texts.WANTED_CHOICE.fill(choices=", ".join(schema["enum"]))
    match schema["type"]:
        case "array":
            return texts.WANTED_TEXTS.fill(least=schema["minItems"])
        case "number":
            return texts.WANTED_NUMBER.fill(least=schema["minimum"], most=f"{schema['maximum']:g}")
        case "object":
            return texts.WANTED_OBJECT
        case _:
            return texts.WANTED_TEXT


_TEXT: Final[Json] = {"type": "string", "minLength": 1}
# Of a parameter that may be left out: many models send "" instead.
_MAYBE_TEXT: Final[Json] = {"type": "string"}
_SECONDS: Final[Json] = {"type": "number", "minimum": 0, "maximum": MAX_PATIENCE_S}


def _sources(least: int = 1) -> Json:
    return {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": least}


def _choice(*names: str) -> Json:
    return {"type": "string", "enum": list(names)}


_PATIENCE: Final = Param("patience_s", _SECONDS, texts.PARAM_PATIENCE)
_IMAGE: Final = Param("image_source", _TEXT, texts.PARAM_PICTURE, is_required=True)
_PROMPT: Final = Param("prompt", _TEXT, texts.PARAM_PROMPT, is_required=True)
_PICTURES: Final = Param("pictures", _sources(), texts.PARAM_PICTURES, is_required=True)
_FOCUS: Final = Param("question", _MAYBE_TEXT, texts.PARAM_FOCUS_QUESTION)


def _look(given: Json, _: Language) -> Question:
    return Question(given["question"], tuple(given["pictures"]), route=given.get("route", "auto"))


def _read_fields(given: Json, language: Language) -> Question:
    schema, template = given.get("schema"), given.get("template")
    if (schema is None) == (template is None):
        raise ArgumentsError(texts.ONE_OF_BOTH)
    if schema is not None and not _may_be_object(schema):
        raise ArgumentsError(texts.NO_OBJECT_SCHEMA)
    text = given.get("question") or texts.ASK_FIELDS.of(language)
    return Question(text, tuple(given["pictures"]), schema=schema, template=template)


def _may_be_object(schema: Json) -> bool:
    kind = schema.get("type", "object")
    return kind == "object" or (isinstance(kind, list) and "object" in kind)


def _compare(given: Json, language: Language) -> Question:
    return Question(given.get("question") or texts.ASK_COMPARE.of(language), tuple(given["pictures"]))


def _read_document(given: Json, language: Language) -> Question:
    text = given.get("question") or texts.ASK_DOCUMENT.of(language)
    # Print is GLM's: Owl2 sees 448 pixels of each picture.
    return Question(text, tuple(given["pages"]), texts.TELL_DOCUMENT, route="fast")


_ARTIFACTS: Final = {
    "code": texts.TELL_CODE,
    "prompt": texts.TELL_PROMPT,
    "spec": texts.TELL_SPEC,
    "description": texts.TELL_DESCRIPTION,
}


def _ui_to_artifact(given: Json, _: Language) -> Question:
    return Question(given["prompt"], (given["image_source"],), _ARTIFACTS[given["output_type"]], route="fast")


def _extract_text(given: Json, _: Language) -> Question:
    tell = texts.TELL_TEXT
    if name := given.get("programming_language"):
        tell += texts.TELL_LANGUAGE.fill(name=name)
    return Question(given["prompt"], (given["image_source"],), tell, route="fast")


def _composed(tell: Text, name: str, more: Text) -> Callable[[Json, Language], Question]:
    """Make the question of a tool about print and what it means: both models look, GLM writes the answer of both."""

    def to_question(given: Json, _: Language) -> Question:
        told = tell + more.fill(**{name: given[given_as]}) if (given_as := _GIVEN_AS[name]) in given else tell
        return Question(given["prompt"], (given["image_source"],), told, merge="compose")

    return to_question


_GIVEN_AS: Final = {"context": "context", "kind": "diagram_type", "focus": "analysis_focus"}


def _ui_diff(given: Json, _: Language) -> Question:
    sources = (given["expected_image_source"], given["actual_image_source"])
    return Question(given["prompt"], sources, texts.TELL_DIFF, merge="compose")


def _analyze_image(given: Json, _: Language) -> Question:
    return Question(given["prompt"], (given["image_source"],))


_OWN: Final = (
    Tool(
        "look",
        texts.LOOK,
        (
            Param("question", _TEXT, texts.PARAM_QUESTION, is_required=True),
            *(_PICTURES, Param("route", _choice("auto", "fast", "deep"), texts.PARAM_ROUTE), _PATIENCE),
        ),
        _look,
    ),
    Tool(
        "refined",
        texts.REFINED,
        (Param("id", _TEXT, texts.PARAM_ID, is_required=True), Param("wait_s", _SECONDS, texts.PARAM_WAIT)),
        None,
    ),
    Tool(
        "read_fields",
        texts.READ_FIELDS,
        (
            *(_PICTURES, Param("schema", {"type": "object"}, texts.PARAM_SCHEMA)),
            *(Param("template", _choice(*NAMES), texts.PARAM_TEMPLATE), _FOCUS, _PATIENCE),
        ),
        _read_fields,
    ),
    Tool(
        "compare",
        texts.COMPARE,
        (Param("pictures", _sources(2), texts.PARAM_PICTURES, is_required=True), _FOCUS, _PATIENCE),
        _compare,
    ),
    Tool(
        "read_document",
        texts.READ_DOCUMENT,
        (Param("pages", _sources(), texts.PARAM_PAGES, is_required=True), _FOCUS, _PATIENCE),
        _read_document,
    ),
)
# Names and parameters of npm's @z_ai/mcp-server 0.1.5, with `patience_s`. Its `analyze_video` is missing: neither model
# is given films here.
_KNOWN: Final = (
    Tool(
        "ui_to_artifact",
        texts.UI_TO_ARTIFACT,
        (
            _IMAGE,
            Param("output_type", _choice(*_ARTIFACTS), texts.PARAM_OUTPUT_TYPE, is_required=True),
            _PROMPT,
            _PATIENCE,
        ),
        _ui_to_artifact,
    ),
    Tool(
        "extract_text_from_screenshot",
        texts.EXTRACT_TEXT,
        (_IMAGE, _PROMPT, Param("programming_language", _MAYBE_TEXT, texts.PARAM_PROGRAMMING), _PATIENCE),
        _extract_text,
    ),
    Tool(
        "diagnose_error_screenshot",
        texts.DIAGNOSE_ERROR,
        (_IMAGE, _PROMPT, Param("context", _MAYBE_TEXT, texts.PARAM_CONTEXT), _PATIENCE),
        _composed(texts.TELL_ERROR, "context", texts.TELL_CONTEXT),
    ),
    Tool(
        "understand_technical_diagram",
        texts.UNDERSTAND_DIAGRAM,
        (_IMAGE, _PROMPT, Param("diagram_type", _MAYBE_TEXT, texts.PARAM_DIAGRAM), _PATIENCE),
        _composed(texts.TELL_DIAGRAM, "kind", texts.TELL_KIND),
    ),
    Tool(
        "analyze_data_visualization",
        texts.ANALYZE_CHART,
        (_IMAGE, _PROMPT, Param("analysis_focus", _MAYBE_TEXT, texts.PARAM_CHART_FOCUS), _PATIENCE),
        _composed(texts.TELL_CHART, "focus", texts.TELL_FOCUS),
    ),
    Tool(
        "ui_diff_check",
        texts.UI_DIFF,
        (
            Param("expected_image_source", _TEXT, texts.PARAM_EXPECTED, is_required=True),
            *(Param("actual_image_source", _TEXT, texts.PARAM_ACTUAL, is_required=True), _PROMPT, _PATIENCE),
        ),
        _ui_diff,
    ),
    Tool("analyze_image", texts.ANALYZE_IMAGE, (_IMAGE, _PROMPT, _PATIENCE), _analyze_image),
)
TOOLS: Final[dict[str, Tool]] = {tool.name: tool for tool in (*_OWN, *_KNOWN)}
