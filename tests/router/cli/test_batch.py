"""`glowl batch` against a service of the test's own: what it sends, what it writes, how it ends."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from router.cli import batch as command
from router.cli.main import app

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
Json = dict[str, Any]


def batch_object(status: str, completed: int = 0, failed: int = 0, **changes: Any) -> Json:
    counts = {"total": 2, "completed": completed, "failed": failed}
    return {
        "id": "batch_1",
        "status": status,
        "request_counts": counts,
        "output_file_id": "file-out" if completed else None,
        "error_file_id": "file-err" if failed else None,
        "errors": None,
        **changes,
    }


class FakeApi:
    """Answers polls with ``states``, one after the other: an object, or a status to refuse with."""

    def __init__(self) -> None:
        self.states: list[Json | int] = []
        self.uploads: list[bytes] = []
        self.created: list[Json] = []
        self.headers: dict[str, str] = {}
        self.gets: list[str | None] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                fake.headers = {key.lower(): value for key, value in self.headers.items()}
                body = self.read()
                if self.path == "/v1/files":
                    fake.uploads.append(body)
                    self.answer({"id": "file-in"})
                else:
                    fake.created.append(json.loads(body))
                    self.answer(batch_object("validating"))

            def do_GET(self) -> None:
                fake.gets.append(self.headers.get("authorization"))
                if self.path.startswith("/v1/files/"):
                    self.answer({"content of": self.path.split("/")[3]})
                    return
                state = fake.states.pop(0)
                if isinstance(state, int):
                    self.answer({"error": {"message": "no", "code": "c"}}, state)
                else:
                    self.answer(state)

            def read(self) -> bytes:
                if "content-length" in self.headers:
                    return self.rfile.read(int(self.headers["content-length"]))
                data = b""
                while size := int(self.rfile.readline(), 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return data

            def answer(self, body: Json, status: int = 200) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def lines(self) -> list[Json]:
        """The lines of the one upload."""
        ((body),) = self.uploads
        return [json.loads(text) for text in body.splitlines() if text.startswith(b"{")]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    monkeypatch.setattr(command, "POLL_S", 0.0)
    fake = FakeApi()
    thread = threading.Thread(target=fake.server.serve_forever, daemon=True)
    thread.start()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()
    thread.join()


def run(api: FakeApi, *arguments: str | Path, lang: str = "en") -> Result:
    argv = ["batch", *map(str, arguments), "--url", api.url, "--api-key", "alice", "--lang", lang]
    return CliRunner().invoke(app, argv)


def test_batch_lines_are_sent_as_they_are_and_answers_saved_beside_them(api: FakeApi, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"custom_id": "a", "body": {}}\nnot even JSON\n')
    api.states = [batch_object("in_progress"), batch_object("in_progress", 1), batch_object("completed", 2)]

    done = run(api, file)

    assert done.exit_code == 0, done.output
    assert b'{"custom_id": "a", "body": {}}\nnot even JSON\n' in api.uploads[0]
    assert api.created == [{"input_file_id": "file-in", "endpoint": "/v1/chat/completions", "completion_window": "24h"}]
    assert api.headers["authorization"] == "Bearer alice"
    assert json.loads((tmp_path / "in.out.jsonl").read_text()) == {"content of": "file-out"}
    assert "batch_1" in done.stderr
    assert done.stdout == ""


def test_questions_with_pictures_become_lines(api: FakeApi, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    rows = [
        {"id": "first", "question": "What is it?", "images": ["a.png", "https://example.com/b.jpg"]},
        {"question": "图里有什么？", "model": "mplug-owl2"},
    ]
    file = tmp_path / "q.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")

    done = run(api, file, "--no-wait")

    assert (done.exit_code, done.stdout) == (0, "batch_1\n")
    first, second = api.lines()
    assert (first["custom_id"], first["method"], first["url"]) == ("first", "POST", "/v1/chat/completions")
    *pictures, text = first["body"]["messages"][0]["content"]
    assert [part["image_url"]["url"] for part in pictures] == [
        "data:image/png;base64," + base64.b64encode(PNG).decode(),
        "https://example.com/b.jpg",
    ]
    assert text == {"type": "text", "text": "What is it?"}
    assert (second["custom_id"], second["body"]["model"]) == ("row-2", "mplug-owl2")


def test_a_table_becomes_lines_of_either_endpoint(api: FakeApi, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    file = tmp_path / "q.csv"
    file.write_text("\ufeffimage,question\na.png,What is it?\n,And this?\n", encoding="utf-8")

    done = run(api, file, "--no-wait", "--endpoint", "/v1/responses", "--model", "glm-4.6v-flash")

    assert done.exit_code == 0, done.output
    first, second = api.lines()
    assert [part["type"] for part in first["body"]["input"][0]["content"]] == ["input_image", "input_text"]
    assert (second["custom_id"], second["body"]["model"]) == ("row-3", "glm-4.6v-flash")
    assert api.created[0]["endpoint"] == "/v1/responses"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": ""}, "line 1"),
        ({"question": "?", "images": "a.png"}, "line 1"),
        ({"question": "?", "images": ["none.png"]}, "none.png"),
        ({"question": "?", "images": ["q.jsonl"]}, "q.jsonl"),
    ],
)
def test_a_row_that_is_no_question_is_named_before_anything_is_sent(
    api: FakeApi, tmp_path: Path, row: Json, said: str
) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(json.dumps(row))

    done = run(api, file)

    assert done.exit_code == 2
    assert said in done.stderr
    assert not run(api, file, lang="zh").stderr.isascii()
    assert api.uploads == []


def test_a_service_that_is_away_for_a_while_is_waited_for(api: FakeApi, tmp_path: Path) -> None:
    api.states = [batch_object("in_progress"), 503, 500, batch_object("completed", 1, 1)]

    done = run(api, "--resume", "batch_1", "--out", tmp_path / "o.jsonl")

    # A line that failed makes the command fail, with both files there
    assert done.exit_code == 1
    assert json.loads((tmp_path / "o.jsonl").read_text()) == {"content of": "file-out"}
    assert json.loads((tmp_path / "o.errors.jsonl").read_text()) == {"content of": "file-err"}


@pytest.mark.parametrize("there", ["q.out.jsonl", "q.errors.jsonl"])
def test_answers_of_an_earlier_batch_are_not_overwritten(api: FakeApi, tmp_path: Path, there: str) -> None:
    # Given a second run on the same table
    questions, earlier = tmp_path / "q.csv", tmp_path / there
    questions.write_text("question\nWhat?\n")
    earlier.write_text("answers that took all night")

    # Then it is refused before anything is sent
    refused = run(api, questions)
    assert (refused.exit_code, api.uploads, api.created) == (2, [], [])
    assert earlier.read_text() == "answers that took all night"
    for word in (str(earlier), "--out", "--overwrite"):
        assert word in refused.stderr

    # Unless that is what was asked for, or nothing is written
    assert run(api, questions, "--no-wait").exit_code == 0
    api.states = [batch_object("completed", completed=1, failed=1)]
    run(api, questions, "--overwrite")
    assert json.loads(earlier.read_text()).keys() == {"content of"}


def test_a_batch_may_be_fetched_again_under_its_own_name_but_not_over_another_file(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.jsonl").write_text("mine")
    for _ in range(2):
        api.states = [batch_object("completed", completed=2)]
        assert run(api, "--resume", "batch_1").exit_code == 0

    assert run(api, "--resume", "batch_1", "--out", "other.jsonl").exit_code == 2
    assert (tmp_path / "other.jsonl").read_text() == "mine"


def test_a_batch_that_failed_says_why(api: FakeApi, tmp_path: Path) -> None:
    api.states = [batch_object("failed", errors={"data": [{"message": "the file is empty"}]})]

    done = run(api, "--resume", "batch_1", "--out", tmp_path / "o.jsonl")

    assert done.exit_code == 1
    assert "the file is empty" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_says_how_to_come_back(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting:
        """asyncio as the command sees it; the server beside it in another thread goes on sleeping in peace."""

        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio, name)

        async def sleep(self, _s: float) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "asyncio", Interrupting())
    api.states = [batch_object("in_progress")]

    done = run(api, "--resume", "batch_1")

    assert done.exit_code == 130
    assert "glowl batch --resume batch_1 --out batch_1.out.jsonl" in done.stderr


def test_what_is_not_utf_8_is_read_and_named(api: FakeApi, tmp_path: Path) -> None:
    file = tmp_path / "q.csv"
    file.write_bytes("question\r\n这是什么颜色？\r\n".encode("gbk"))

    done = run(api, file, "--no-wait")

    assert done.exit_code == 0
    assert "read as GB18030" in done.stderr
    assert api.lines()[0]["body"]["messages"][0]["content"][0]["text"] == "这是什么颜色？"


def test_questions_come_from_stdin_too(api: FakeApi, tmp_path: Path) -> None:
    argv = ["batch", "-", "--no-wait", "--url", api.url, "--lang", "en"]

    done = CliRunner().invoke(app, argv, input="question;id\nWhat?;first\n")

    assert (done.exit_code, done.stdout) == (0, "batch_1\n")
    assert api.lines()[0]["custom_id"] == "first"


def test_a_place_that_cannot_take_the_answers_is_refused_before_anything_is_sent(api: FakeApi, tmp_path: Path) -> None:
    file = tmp_path / "q.csv"
    file.write_text("question\nWhat?\n")

    for out, said in ((tmp_path / "none" / "o", "--out"), (tmp_path, "--out"), (file, "overwrite")):
        done = run(api, file, "--out", out)
        assert done.exit_code == 2
        assert said in done.stderr

    assert api.uploads == []


def test_an_answer_of_another_service_is_one_line(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    api.states = [batch_object("in_progress")]
    monkeypatch.setattr(json, "dumps", lambda _body: "<html>it works</html>")

    done = run(api, "--resume", "batch_1")

    assert done.exit_code == 1
    assert "check that a glowl service runs at that address" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [["batch", "--resume", "b"], ["jobs", "list"], ["jobs", "tail", "r"], ["ask", "?"]])
def test_a_key_that_no_header_can_carry_is_refused_in_one_line(api: FakeApi, command: list[str]) -> None:
    done = CliRunner().invoke(app, [*command, "--url", api.url, "--api-key", "two\nlines"])
    assert done.exit_code == 1
    assert "the API key has characters" in done.stderr
    assert "two" not in done.stderr


def test_the_line_end_of_a_file_is_no_part_of_the_key(api: FakeApi) -> None:
    api.states = [batch_object("failed")]
    CliRunner().invoke(app, ["batch", "--resume", "b", "--url", api.url], env={"GLOWL_API_KEY": "alice\n"})
    assert api.gets[-1] == "Bearer alice"


def test_wrong_usage_is_refused_and_so_is_a_batch_that_is_not_there(api: FakeApi, tmp_path: Path) -> None:
    assert run(api).exit_code == 2
    assert run(api, tmp_path / "none.jsonl").exit_code == 2
    assert run(api, "--resume", "b", "--endpoint", "/v1/other").exit_code == 2
    api.states = [404]
    assert run(api, "--resume", "batch_9").exit_code == 1
