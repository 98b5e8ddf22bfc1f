"""`glowl eval` against a small fake of the public API: what it asks, what it keeps, and how it goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from router.cli import evaluation
from router.cli.main import app
from router.loop.stats.results import read_results
from tests.support.pictures import png

ARMS = ["--models", "glm-4.6v-flash:base,glm-4.6v-flash:receipts", "--routes", "deep"]


class FakeService:
    """Says ``42`` with the adapter and ``41`` without; ``refuses`` has a status per question number, used up."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.refuses: dict[int, list[int]] = {}
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                models = ["glowl", "glm-4.6v-flash", "glm-4.6v-flash:receipts"]
                self.send(
                    200,
                    {
                        "data": [
                            {"id": model, "hybrid": {"revision": "a1" if ":" in model else "r1"}} for model in models
                        ]
                    },
                )

            def do_POST(self) -> None:
                body = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
                fake.asked.append(body)
                number = int(body["input"][-1]["content"][-1]["text"].split()[-1])
                if statuses := fake.refuses.get(number):
                    self.send(statuses.pop(0), {"error": {"message": "no", "code": "x"}})
                    return
                model = body["model"]
                draft = {"type": "message", "phase": "commentary", "content": [{"type": "output_text", "text": "40"}]}
                said = "42" if model.endswith("receipts") else "41"
                final = {"type": "message", "phase": "final_answer", "content": [{"type": "output_text", "text": said}]}
                self.send(200, {"model": model.removesuffix(":base"), "output": [draft, final]})

            def send(self, status: int, answer: Any) -> None:
                data = orjson.dumps(answer)
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                pass  # a client that has heard enough hangs up

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def service() -> Iterator[FakeService]:
    fake = FakeService()
    thread = threading.Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield fake
    fake.server.shutdown()
    thread.join()
    fake.server.server_close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "receipts"
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(12):
        (folder / "images" / f"{number}.png").write_bytes(png("red", 8 + number).data)
        content = [
            {"type": "image_url", "image_url": {"url": f"images/{number}.png"}},
            {"type": "text", "text": f"What is the total of receipt {number}"},
        ]
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "42"}]
        lines.append({"id": f"q{number}", "slice": "en", "messages": messages})
    (folder / "heldout.jsonl").write_bytes(b"\n".join(orjson.dumps(line) for line in lines))
    return folder


def _run(service: FakeService, data: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["eval", "--data", str(data), "--url", service.url, *ARMS, *more])


def test_every_question_is_asked_in_every_way_and_differences_are_shown(service: FakeService, data: Path) -> None:
    result = _run(service, data)

    assert result.exit_code == 0, result.output
    assert len(service.asked) == 36
    asked = [each for each in service.asked if each["model"] == "glowl"]
    assert {(each["hybrid"]["route"], each["store"], each["temperature"]) for each in asked} == {("deep", False, 0)}
    assert asked[0]["input"][0]["content"][0]["image_url"].startswith("data:image/png;base64,")
    assert "+100.0 [" in result.output
    assert "by chance with p = 0.000488" in result.output
    results = read_results(data / "eval.jsonl")
    answer = results.answers["glm-4.6v-flash:receipts"]["q3"]
    assert (answer.said, answer.model) == ("42", "glm-4.6v-flash:receipts")
    assert (answer.revision, answer.adapter_revision) == ("r1", "a1")


def test_a_run_that_broke_off_goes_on(service: FakeService, data: Path) -> None:
    # Given a run that wrote six answers, and half of a seventh
    _run(service, data)
    path = data / "eval.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:7]) + lines[7][:30])
    service.asked.clear()

    result = _run(service, data)

    assert result.exit_code == 0, result.output
    assert len(service.asked) == 30
    assert "asking 30 of 36" in result.output
    assert {arm: len(answers) for arm, answers in read_results(path).answers.items()} == dict.fromkeys(
        ["glm-4.6v-flash:base", "glm-4.6v-flash:receipts", "glowl@deep"], 12
    )


def test_other_questions_do_not_get_into_the_same_file(service: FakeService, data: Path) -> None:
    _run(service, data)
    questions = data / "heldout.jsonl"
    questions.write_bytes(questions.read_bytes().replace(b'"42"', b'"43"', 1))

    result = _run(service, data)

    assert result.exit_code == 2
    assert "other questions" in result.output


def test_a_refused_question_is_a_wrong_answer_and_a_passing_failure_is_asked_again(
    service: FakeService, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "_WAITS_S", (0.0, 0.0))
    service.refuses = {3: [400, 400, 400], 5: [503, 429]}

    result = _run(service, data)

    assert result.exit_code == 0, result.output
    of_arm = read_results(data / "eval.jsonl").answers["glm-4.6v-flash:receipts"]
    assert (of_arm["q3"].said, of_arm["q3"].error, of_arm["q5"].said) == (None, "no", "42")
    assert sum(each.scores.exact for each in of_arm.values()) == 11


@pytest.mark.parametrize("statuses", [[401] * 9, [503] * 99])
def test_a_service_that_answers_nothing_ends_the_run_with_one_line(
    statuses: list[int], service: FakeService, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "_WAITS_S", (0.0, 0.0))
    service.refuses = {number: list(statuses) for number in range(12)}

    result = _run(service, data)

    assert result.exit_code == 1
    assert f"{statuses[0]}" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--routes", "sideways"], "none of auto, fast, deep"), (["--by", "bleu"], "none of exact, f1, anls")],
)
def test_what_there_is_none_of_is_refused(arguments: list[str], said: str, service: FakeService, data: Path) -> None:
    result = _run(service, data, *arguments)

    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())


def test_a_folder_without_questions_is_refused(service: FakeService, tmp_path: Path) -> None:
    result = _run(service, tmp_path)

    assert result.exit_code == 2
    assert "heldout.jsonl" in result.output
