"""Batches end to end: every line is answered once, whoever is killed meanwhile; what is cancelled stops."""

from __future__ import annotations

import base64
import json
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import httpx
import openai
import pytest
import redis
from openai.types import Batch

from engines.echo import EchoEngine
from engines.http.app import create_app as create_engine_app
from tests.journeys.conftest import Stack, picture
from tests.support.servers import AppServer, Process, RedisProcess, free_port, start_worker, wait_until

pytestmark = pytest.mark.e2e

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


class ApiProcess:
    """The api as a process of its own, so that it can be killed, always at one address."""

    def __init__(self, env: dict[str, str], log: Path) -> None:
        self.port = free_port()
        self._env, self._log = env, log
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        argv = [sys.executable, "-m", "router.cli", "api", "--port", str(self.port)]
        self.process = Process(argv, self._log, self._env)
        wait_until(self._answers, "the api")

    def kill(self) -> None:
        self.process.kill()

    def stop(self) -> None:
        self.process.stop()

    def _answers(self) -> bool:
        try:
            engines = httpx.get(f"{self.url}/readyz", trust_env=False).json()["engines"]
        except httpx.TransportError:
            return False
        return set(engines.values()) == {"up"}


@pytest.fixture(scope="module")
def stack(redis_process: RedisProcess) -> Iterator[Stack]:
    redis_process.flush()
    folder = Path(tempfile.mkdtemp(prefix="glowl-j"))
    engines = {name: EchoEngine(name) for name in ("glm", "owl2")}
    servers = {name: AppServer(create_engine_app(each), uds=str(folder / name)) for name, each in engines.items()}
    env = {
        "REDIS_URL": redis_process.url,
        "GLOWL_GLM_URL": servers["glm"].url,
        "GLOWL_OWL2_URL": servers["owl2"].url,
        "GLOWL_LEASE_S": "1.5",
        "GLOWL_ALLOW_PRIVATE_URLS": "true",
        "GLOWL_BATCH_LINES_IN_FLIGHT": "8",
    }
    api: Any = ApiProcess(env, folder / "api.log")
    stack = Stack(redis_process, engines, servers, api, start_worker(env, folder / "worker.log"), env, folder)
    yield stack
    stack.client.close()
    api.stop()
    for server in servers.values():
        server.stop()
    stack.worker.stop()


def line(custom_id: str, question: str, *pictures: str, url: str = CHAT) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": each}} for each in pictures]
    content.append({"type": "text", "text": question})  # type: ignore[dict-item]
    body = {"model": "glowl", "messages": [{"role": "user", "content": content}]}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def begin(stack: Stack, lines: list[Any], endpoint: str = CHAT, **options: Any) -> Batch:
    texts = [each if isinstance(each, str) else json.dumps(each) for each in lines]
    file = stack.client.files.create(file=("in.jsonl", "\n".join(texts).encode()), purpose="batch")
    return stack.client.batches.create(
        input_file_id=file.id,
        endpoint=endpoint,  # type: ignore[arg-type]
        completion_window="24h",
        **options,
    )


def wait(stack: Stack, batch_id: str, is_so: Any = lambda batch: batch.status == "completed") -> Batch:
    def look() -> Batch | None:
        batch = stack.client.batches.retrieve(batch_id)
        return batch if is_so(batch) else None

    found: Batch = wait_until(look, "the batch to get there")
    return found


def num_done(batch: Batch) -> int:
    return batch.request_counts.completed if batch.request_counts else 0


def read(stack: Stack, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(text) for text in stack.client.files.content(file_id).text.splitlines()]


def test_sixty_lines_are_answered_once_each_although_the_api_is_killed(stack: Stack) -> None:
    # Given a batch of fast and deep questions, with pictures, and with some bad lines among them
    for engine in stack.engines.values():
        engine.delta_delay_s = 0.02
    lines: list[Any] = []
    for number in range(60):
        match number % 10:
            case 3:
                lines.append("{bad json" if number % 20 == 3 else line(f"url-{number}", "?", url="/v1/other"))
            case 5:
                lines.append(line(f"q{number}", f"图里有什么？第{number}张", picture("red")))
            case _:
                lines.append(line(f"q{number}", f"Which of these is larger, {number} or the other?"))
    lines.append(line("q0", "the same name again"))
    expected = {f"q{number}" for number in range(60) if number % 10 != 3}
    batch = begin(stack, lines)

    # When the api is killed in the middle
    wait(stack, batch.id, lambda found: num_done(found) >= 10)
    stack.api.kill()  # type: ignore[attr-defined]
    stack.api.start()
    for engine in stack.engines.values():
        engine.delta_delay_s = 0.0
    done = wait(stack, batch.id)

    # Then each line has one answer, of its own question, and each bad one its error
    answers = read(stack, done.output_file_id)
    assert Counter(entry["custom_id"] for entry in answers) == dict.fromkeys(expected, 1)
    for entry in answers:
        assert entry["response"]["status_code"] == 200
        assert entry["custom_id"].removeprefix("q") in entry["response"]["body"]["choices"][0]["message"]["content"]
    assert {entry["response"]["body"]["hybrid"]["route"] for entry in answers} == {"fast", "deep"}
    codes = Counter(entry["error"]["code"] for entry in read(stack, done.error_file_id))
    assert codes == {"invalid_json_line": 3, "mismatched_endpoint": 3, "duplicate_custom_id": 1}
    assert done.request_counts is not None
    assert done.request_counts.to_dict() == {"total": 61, "completed": len(expected), "failed": 7}
    assert done.usage is not None
    assert done.usage.output_tokens > 0
    # And nothing of the batch is left over but its files
    assert [key for key in keys(stack) if b":batch_lines:" in key or b":batch_custom_ids:" in key] == []
    assert [key for key in keys(stack) if b":job:" in key] == []


def keys(stack: Stack) -> list[bytes]:
    with redis.Redis.from_url(stack.redis.url) as connection:
        return list(connection.keys("glowl:*"))


def test_cancel_keeps_what_is_answered_and_frees_the_engines(stack: Stack) -> None:
    # Given a batch in the middle
    slow = stack.engines["owl2"]
    batch = begin(stack, [line(f"q{number}", f"Which is larger, {number} or less?") for number in range(200)])
    wait(stack, batch.id, lambda found: num_done(found) >= 5)
    slow.delta_delay_s = 5.0
    wait_until(lambda: slow.num_running > 0, "a line to run")

    # When it is cancelled
    assert stack.client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    done = wait(stack, batch.id, lambda found: found.status == "cancelled")

    # Then what was answered is there, the rest is named, and nobody works on it any more
    answered = {entry["custom_id"] for entry in read(stack, done.output_file_id)}
    errors = {entry["custom_id"]: entry["error"]["code"] for entry in read(stack, done.error_file_id)}
    assert len(answered) >= 5
    assert answered | set(errors) == {f"q{number}" for number in range(200)}
    assert answered & set(errors) == set()
    assert set(errors.values()) == {"batch_cancelled"}
    wait_until(lambda: slow.num_running == 0, "the engine to be free")


def test_responses_lines_can_be_read_by_their_ids_and_the_end_is_told(stack: Stack) -> None:
    # Given somebody who wants to be told
    told: Queue[bytes] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.put(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hook = f"http://127.0.0.1:{server.server_port}/"
    types = ["batch.completed", "response.completed"]
    with stack.http as http:
        endpoint = http.post("/v1/webhook_endpoints", json={"name": "n", "url": hook, "event_types": types}).json()

    # When a batch of Responses requests ends
    ask = {"model": "glowl", "input": "Which is larger, and why?"}
    lines = [
        {"custom_id": "kept", "method": "POST", "url": RESPONSES, "body": ask},
        {"custom_id": "forgotten", "method": "POST", "url": RESPONSES, "body": {**ask, "store": False}},
    ]
    batch = begin(stack, lines, RESPONSES)
    done = wait(stack, batch.id)

    # Then its answers are what the endpoint gives, and what was to be stored is
    bodies = {entry["custom_id"]: entry["response"]["body"] for entry in read(stack, done.output_file_id)}
    kept, forgotten = bodies["kept"], bodies["forgotten"]
    assert (kept["object"], kept["status"], kept["background"], kept["store"]) == ("response", "completed", False, True)
    assert stack.client.responses.retrieve(kept["id"]).output_text == kept["output"][-1]["content"][0]["text"]
    with pytest.raises(openai.NotFoundError):
        stack.client.responses.retrieve(forgotten["id"])
    assert (kept["hybrid"]["response_id"], forgotten["hybrid"]["response_id"]) == (kept["id"], None)
    # And one event comes, of the batch and not of its lines
    event = json.loads(told.get(timeout=300))
    assert (event["type"], event["data"]["id"]) == ("batch.completed", batch.id)
    assert told.empty()
    with stack.http as http:
        http.delete(f"/v1/webhook_endpoints/{endpoint['id']}")
    server.shutdown()
    server.server_close()


def test_the_command_answers_a_file_of_questions_although_the_api_restarts(stack: Stack, tmp_path: Path) -> None:
    # Given questions with pictures, as a user would write them down
    (tmp_path / "owl.png").write_bytes(base64.b64decode(picture("blue").partition(",")[2]))
    rows = [
        {"id": f"r{number}", "question": f"What is in picture {number}?", "images": ["owl.png"]} for number in range(30)
    ]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("\n".join(json.dumps(row) for row in rows))
    stack.engines["owl2"].delta_delay_s = 0.05

    # When the command runs and the api goes away for a while
    before = {batch.id for batch in stack.client.batches.list()}
    argv = [sys.executable, "-m", "router.cli", "batch", str(questions), "--url", stack.api.url]
    command = Process(argv, tmp_path / "log")
    try:
        batch_id = wait_until(lambda: {batch.id for batch in stack.client.batches.list()} - before, "the batch").pop()
        wait(stack, batch_id, lambda found: num_done(found) >= 3)
        stack.api.stop()
        stack.api.start()
        stack.engines["owl2"].delta_delay_s = 0.0
        code = command.child.wait(300)
    finally:
        command.stop()

    # Then every answer is in the file beside the questions
    assert code == 0, (tmp_path / "log").read_text()
    answers = [json.loads(text) for text in (tmp_path / "questions.out.jsonl").read_text().splitlines()]
    assert sorted(entry["custom_id"] for entry in answers) == sorted(row["id"] for row in rows)
    assert "1 picture" in answers[0]["response"]["body"]["choices"][0]["message"]["content"]


CASES = Path(__file__).parents[3] / "shared" / "cases"
TERMINAL = ("completed", "failed", "expired", "cancelled")


def run_case(stack: Stack, name: str) -> Batch:
    if not CASES.is_dir():
        pytest.skip("the cases are not beside this checkout")
    file = stack.client.files.create(file=(name, (CASES / name).read_bytes()), purpose="batch")
    batch = stack.client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    return wait(stack, batch.id, lambda batch: batch.status in TERMINAL)


def entries(stack: Stack, file_id: str | None) -> dict[str, Any]:
    """What README's example reads: every line that `splitlines` finds is an object."""
    lines = stack.client.files.content(file_id).text.splitlines() if file_id else []
    return {entry["custom_id"]: entry for entry in map(json.loads, lines)}


def test_separators_in_an_answer_do_not_break_the_lines_of_the_output(stack: Stack) -> None:
    answers = entries(stack, run_case(stack, "batch-with-line-separators.jsonl").output_file_id)
    assert set(answers) == {"r1", "r2"}
    text = answers["r1"]["response"]["body"]["choices"][0]["message"]["content"]
    assert {"\u2028", "\u2029"} <= set(text)


def test_one_odd_schema_is_that_lines_matter(stack: Stack) -> None:
    batch = run_case(stack, "batch-with-one-odd-schema.jsonl")
    assert batch.status == "completed"
    answers = entries(stack, batch.output_file_id)
    assert {"r1", "r3"} <= set(answers)
    assert set(answers) | set(entries(stack, batch.error_file_id)) == {"r1", "r2", "r3"}


def test_a_file_in_utf_16_fails_once_and_says_why(stack: Stack) -> None:
    batch = run_case(stack, "batch-in-utf-16.jsonl")
    assert batch.status == "failed"
    assert batch.errors is not None
    (error,) = batch.errors.data or ()
    assert "must be UTF-8" in str(error.message)
