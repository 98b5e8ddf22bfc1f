"""`glowl ask` against a small fake of the public API: what it sends, what it shows, how it ends."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from rich.console import Console
from typer.testing import CliRunner, Result

from router.cli.ask import Transcript
from router.cli.common import printable
from router.cli.main import app
from router.cli.net import free_port

PNG = b"\x89PNG\r\n\x1a\n" + b"rest"
HYBRID = {
    "route": "deep",
    "engine": "owl2",
    "rule": "english",
    "reasons": [{"feature": "language", "text": "the question is in English", "text_zh": "问题是英文"}],
    "degraded": [],
}


def response(status: str, *, final: str = "", **more: Any) -> dict[str, Any]:
    content = [{"type": "output_text", "text": final}]
    output = [{"id": "msg_1", "type": "message", "phase": "final_answer", "content": content}] if final else []
    return {"id": "resp_1", "status": status, "model": "mplug-owl2-echo", "output": output, "hybrid": HYBRID, **more}


def created() -> dict[str, Any]:
    return {"type": "response.created", "response": response("in_progress")}


def added(item: str, phase: str) -> dict[str, Any]:
    return {"type": "response.output_item.added", "item": {"id": item, "phase": phase}}


def delta(item: str, text: str) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "item_id": item, "delta": text}


def done(item: str, status: str = "completed") -> dict[str, Any]:
    return {"type": "response.output_item.done", "item": {"id": item, "status": status}}


def completed(final: str, **more: Any) -> dict[str, Any]:
    return {"type": "response.completed", "response": response("completed", final=final, **more)}


DRAFT_AND_FINAL = [
    created(),
    added("msg_0", "commentary"),
    delta("msg_0", "A first "),
    delta("msg_0", "guess."),
    done("msg_0"),
    added("msg_1", "final_answer"),
    delta("msg_1", "The real "),
    delta("msg_1", "answer."),
    done("msg_1"),
    completed("The real answer."),
]


class FakeApi:
    """Streams ``events``; what it was sent is in ``body`` and ``headers``; polls are answered from ``polls``."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.refusal: tuple[int, str] | None = None
        self.polls: list[dict[str, Any]] = []
        self.body: dict[str, Any] = {}
        self.headers: dict[str, str] = {}
        self.url = ""

    async def create(self, request: web.Request) -> web.StreamResponse:
        self.headers = dict(request.headers)
        self.body = await request.json()
        if self.refusal is not None:
            return web.Response(status=self.refusal[0], text=self.refusal[1])
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for event in self.events:
            await answer.write(f": ping\n\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        return answer

    async def retrieve(self, request: web.Request) -> web.Response:
        assert request.match_info["id"] == "resp_1"
        return web.json_response(self.polls.pop(0))


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    fake = FakeApi()
    application = web.Application()
    application.router.add_post("/v1/responses", fake.create)
    application.router.add_get("/v1/responses/{id}", fake.retrieve)
    async with TestServer(application) as server:
        fake.url = str(server.make_url("")).rstrip("/")
        yield fake


@pytest.fixture
def run(api: FakeApi, monkeypatch) -> Callable[..., Awaitable[Result]]:
    for name in ("GLOWL_URL", "GLOWL_API_KEY", "LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.setattr("router.cli.ask.POLL_S", 0)

    async def invoke(*arguments: str) -> Result:
        # The command brings its own event loop: it needs a thread beside the fake's.
        return await asyncio.to_thread(CliRunner().invoke, app, ["ask", "--url", api.url, *arguments])

    return invoke


async def test_stdout_holds_the_answer_and_stderr_all_the_rest(api, run):
    # Given a service that drafts and then answers
    api.events = DRAFT_AND_FINAL
    # When it is asked
    result = await run("What is it?")
    # Then the answer alone can be redirected, and route, reason, draft and model are told beside it
    assert result.exit_code == 0
    assert result.stdout == "The real answer.\n"
    assert result.stderr.splitlines() == [
        "route deep · engine owl2 · rule english",
        "  - the question is in English",
        "draft:",
        "A first guess.",
        "waiting for the deep answer",
        "answer:",
        "answered by mplug-owl2-echo",
    ]


async def test_the_words_are_chinese_where_the_locale_is(api, run, monkeypatch):
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    api.events = DRAFT_AND_FINAL
    result = await run("这是什么?")
    assert result.stderr.splitlines()[:3] == ["路由 deep · 引擎 owl2 · 规则 english", "  - 问题是英文", "草稿："]
    assert api.headers["Accept-Language"] == "zh"


async def test_pictures_travel_in_order_before_the_question(api, run, tmp_path):
    api.events = [created(), completed("ok")]
    (tmp_path / "a.png").write_bytes(PNG)
    await run(str(tmp_path / "a.png"), "https://example.org/b.jpg", "Which?")
    assert api.body["stream"] is True
    assert api.body["model"] == "glowl"
    assert api.body["hybrid"] == {"draft": "message"}
    (turn,) = api.body["input"]
    assert turn["content"] == [
        {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgpyZXN0"},
        {"type": "input_image", "image_url": "https://example.org/b.jpg"},
        {"type": "input_text", "text": "Which?"},
    ]


@pytest.fixture
def samples(tmp_path, monkeypatch):
    """A package that carries one sample per language."""
    (tmp_path / "samples.json").write_text(
        json.dumps(
            [
                {"name": "one", "lang": "zh", "pictures": ["a.png"], "question": "几个?", "answer": "3"},
                {"name": "two", "lang": "en", "pictures": ["a.png", "b.png"], "question": "Which?", "answer": "second"},
            ]
        )
    )
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(PNG)
    monkeypatch.setattr("router.cli.samples.samples_dir", lambda: tmp_path)
    return tmp_path


@pytest.mark.usefixtures("samples")
@pytest.mark.parametrize(
    ("arguments", "name", "question", "num_pictures", "truth"),
    [
        ((), "two", "Which?", 2, "second"),
        (("--lang", "zh"), "one", "几个?", 1, "3"),
        (("--sample", "one"), "one", "几个?", 1, "3"),
    ],
)
async def test_a_sample_brings_pictures_question_and_truth(api, run, arguments, name, question, num_pictures, truth):
    # Given a service that may be wrong
    api.events = [created(), completed("maybe")]
    # When it is asked about a sample, named or the language's first
    result = await run(*arguments)
    # Then the sample's pictures and question were sent
    assert [part["type"] for part in api.body["input"][0]["content"]] == ["input_image"] * num_pictures + ["input_text"]
    assert api.body["input"][0]["content"][-1]["text"] == question
    # And the answer stands alone on stdout, with question and truth beside it
    assert result.stdout == "maybe\n"
    first, *_, last = result.stderr.splitlines()
    assert name in first
    assert question in first
    assert last.endswith(truth)


@pytest.mark.usefixtures("samples")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--sample", "three"), "one, two"), (("--sample", "one", "What?"), "--sample")],
)
async def test_an_unknown_sample_and_a_question_beside_one_are_refused(api, run, arguments, said):
    result = await run(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert api.body == {}


async def test_nothing_to_ask_is_refused_where_no_samples_are_installed(api, run, tmp_path, monkeypatch):
    monkeypatch.setattr("router.cli.samples.samples_dir", lambda: tmp_path)
    result = await run()
    assert result.exit_code == 2
    assert "glowl ask PICTURE.png" in result.stderr


async def test_route_model_and_key_are_passed_on(api, run):
    api.events = [created(), completed("ok")]
    await run("--route", "fast", "--model", "mplug-owl2", "--api-key", "secret", "Hello?")
    assert api.body["hybrid"] == {"route": "fast", "draft": "message"}
    assert api.body["model"] == "mplug-owl2"
    assert api.headers["Authorization"] == "Bearer secret"


async def test_json_prints_the_response_object_alone(api, run):
    api.events = DRAFT_AND_FINAL
    result = await run("--json", "What is it?")
    assert orjson.loads(result.stdout) == DRAFT_AND_FINAL[-1]["response"]
    assert result.stderr == ""


async def test_a_background_job_that_streams_nothing_before_its_end_still_answers(api, run):
    queued = {"type": "response.queued", "response": response("queued")}
    api.events = [{"type": "response.created", "response": response("queued")}, queued, completed("late")]
    result = await run("Q?")
    assert "queued as resp_1" in result.stderr
    assert result.stdout == "late\n"


async def test_degradation_is_told(api, run):
    api.events = [created(), completed("ok", hybrid={**HYBRID, "degraded": ["owl2 gave no answer"]})]
    assert "degraded: owl2 gave no answer" in (await run("Q?")).stderr


async def test_an_answer_cut_by_its_length_is_shown_and_said_to_be_cut(api, run):
    cut = response("incomplete", final="As I was", incomplete_details={"reason": "max_output_tokens"})
    api.events = [created(), {"type": "response.incomplete", "response": cut}]
    result = await run("Q?")
    assert (result.exit_code, result.stdout) == (0, "As I was\n")
    assert "cut short: max_output_tokens" in result.stderr


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (
            {"type": "response.failed", "response": response("failed", error={"code": "x", "message": "no engine"})},
            "failed: no engine",
        ),
        ({"type": "error", "code": "x", "message": "redis is away"}, "failed: redis is away"),
        ({"type": "response.incomplete", "response": response("cancelled")}, "cancelled"),
    ],
)
async def test_a_job_that_ends_badly_ends_the_command_badly(api, run, last, message):
    api.events = [created(), last]
    result = await run("Q?")
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stdout == ""


async def test_a_broken_stream_is_followed_up_by_polling(api, run):
    # Given a stream that breaks after the draft, and a job that goes on
    api.events = DRAFT_AND_FINAL[:5]
    api.polls = [response("in_progress"), response("completed", final="The real answer.")]
    # When it is asked
    result = await run("Q?")
    # Then the answer is the record's
    assert (result.exit_code, result.stdout) == (0, "The real answer.\n")
    assert "the stream broke" in result.stderr
    assert api.polls == []


async def test_a_stream_that_breaks_before_there_is_an_id_is_a_failure(api, run):
    result = await run("Q?")
    assert result.exit_code == 1
    assert "failed: the stream ended early" in result.stderr


async def test_a_refusal_shows_the_envelopes_message(api, run):
    api.refusal = (400, '{"error": {"message": "unknown model: gpt", "type": "t", "param": "model", "code": "c"}}')
    result = await run("--model", "gpt", "Q?")
    assert result.exit_code == 1
    assert result.stderr == "glowl: the service answered 400: unknown model: gpt\n"


async def test_a_refusal_without_an_envelope_shows_the_body(api, run):
    api.refusal = (502, "<html>bad gateway</html>")
    assert "502: <html>bad gateway</html>" in (await run("Q?")).stderr


def ask(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["ask", *arguments])


def test_when_nothing_listens_the_way_to_start_it_is_named():
    result = ask("--url", f"http://127.0.0.1:{free_port('127.0.0.1')}", "Q?")
    assert result.exit_code == 1
    assert "glowl up" in result.stderr


def test_wrong_arguments_are_refused_before_anything_is_sent(tmp_path):
    picture, text = tmp_path / "a.png", tmp_path / "a.txt"
    picture.write_bytes(PNG)
    text.write_text("hello")
    for arguments, message in (
        (["none.png", "Q?"], "no such picture: none.png"),
        ([str(text), "Q?"], "is not a picture"),
        ([str(tmp_path), "Q?"], "cannot read"),
        ([str(picture)], "the last argument is the question"),
        ([" "], "the question is empty"),
        (["\u200b\ufeff"], "the question is empty"),
        (["--route", "sideways", "Q?"], "sideways"),
    ):
        result = ask("--url", "http://127.0.0.1:9", *arguments)
        assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


def watched_transcript() -> tuple[Transcript, io.StringIO]:
    drawn = io.StringIO()
    return Transcript(Console(file=drawn, highlight=False), "en"), drawn


def test_two_items_that_come_at_once_are_not_mixed(capsys):
    # Given a draft and an answer generated side by side
    transcript, drawn = watched_transcript()
    for event in (
        added("msg_0", "commentary"),
        delta("msg_0", "A first "),
        added("msg_1", "final_answer"),
        delta("msg_1", "The real "),
        delta("msg_0", "guess."),
        done("msg_0"),
        delta("msg_1", "answer."),
        done("msg_1"),
    ):
        transcript.show(event)
    transcript.finish(response("completed", final="The real answer."))
    # Then each is in one piece
    assert capsys.readouterr().out == "The real answer.\n"
    assert "draft:\nA first guess.\nanswer:\n" in drawn.getvalue()


def test_an_answer_that_an_engine_had_to_start_again_is_said_to_be_that(capsys):
    transcript, drawn = watched_transcript()
    for event in (
        added("msg_1", "final_answer"),
        delta("msg_1", "The re"),
        added("msg_2", "final_answer"),
        done("msg_1", "incomplete"),
        delta("msg_2", "Other."),
        done("msg_2"),
    ):
        transcript.show(event)
    transcript.finish(response("completed", final="Other."))
    assert capsys.readouterr().out == "The re\nOther.\n"
    assert "cut off" in drawn.getvalue()


def test_a_model_cannot_drive_the_terminal():
    assert printable("a\x1b[2Jb\tc\nd\x07\x9b31m\u4f60") == "a[2Jb\tc\nd31m\u4f60"
