"""Files and batches as the unmodified OpenAI client sees them, with an api and a redis, and nobody who runs jobs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import redis
from openai.types import Batch

from engines.echo import EchoEngine
from engines.http.app import create_app as create_engine_app
from router.app import create_app
from router.settings import Settings
from tests.support.servers import AppServer, RedisProcess, wait_until

CHAT = "/v1/chat/completions"
DAY_S = 24 * 3600


@pytest.fixture(scope="module")
def api(redis_process: RedisProcess) -> Iterator[AppServer]:
    redis_process.flush()
    folder = Path(tempfile.mkdtemp(prefix="glowl-b"))
    engines = {name: AppServer(create_engine_app(EchoEngine(name)), uds=str(folder / name)) for name in ("glm", "owl2")}
    settings = Settings(
        REDIS_URL=redis_process.url,
        glm_url=engines["glm"].url,
        owl2_url=engines["owl2"].url,
        max_file_bytes=2_000_000,
        max_stored_bytes=3_000_000,
        max_body_bytes=600_000,
        api_keys=("alice", "bob"),
    )
    server = AppServer(create_app(settings))
    yield server
    server.stop()
    for engine in engines.values():
        engine.stop()


@pytest.fixture
def client(api: AppServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=api.url + "/v1", api_key="alice", max_retries=0) as client:
        yield client
        for file in client.files.list():
            client.files.delete(file.id)


@pytest.fixture
def bob(api: AppServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=api.url + "/v1", api_key="bob", max_retries=0) as client:
        yield client


def line(custom_id: str, **changes: Any) -> dict[str, Any]:
    body = {"model": "glowl", "messages": [{"role": "user", "content": "图里有什么？"}]}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body, **changes}


def upload(client: openai.OpenAI, *lines: dict[str, Any] | str) -> str:
    texts = [each if isinstance(each, str) else json.dumps(each) for each in lines]
    return client.files.create(file=("input.jsonl", "\n".join(texts).encode()), purpose="batch").id


def begin(client: openai.OpenAI, file_id: str, **options: Any) -> Batch:
    return client.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h", **options)


def wait(client: openai.OpenAI, batch_id: str, *statuses: str) -> Batch:
    def look() -> Batch | None:
        batch = client.batches.retrieve(batch_id)
        return batch if batch.status in statuses else None

    found: Batch = wait_until(look, f"the batch to be {statuses}")
    return found


def read(client: openai.OpenAI, file_id: str | None) -> dict[str | None, dict[str, Any]]:
    assert file_id is not None
    entries = [json.loads(text) for text in client.files.content(file_id).text.splitlines()]
    found = {entry["custom_id"]: entry for entry in entries}
    assert len(found) == len(entries)
    return found


def jobs(client: openai.OpenAI, **query: str) -> list[dict[str, Any]]:
    page: dict[str, Any] = client.get("/jobs", cast_to=dict, options={"params": query})  # type: ignore[type-var]
    data: list[dict[str, Any]] = page["data"]
    return data


def error_of(raised: pytest.ExceptionInfo[openai.APIStatusError]) -> tuple[int, str | None, str | None]:
    return raised.value.status_code, raised.value.code, raised.value.param


def test_a_file_is_stored_described_listed_read_and_deleted(client: openai.OpenAI) -> None:
    # Given a file larger than the pieces that redis keeps it in, with every byte there is
    data = bytes(range(256)) * 5000
    created = client.files.create(
        file=("数据.jsonl", data), purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
    )

    # Then it is described as OpenAI's files are
    assert created.id.startswith("file-")
    assert (created.object, created.bytes, created.filename) == ("file", len(data), "数据.jsonl")
    assert (created.purpose, created.status) == ("batch", "processed")
    assert created.expires_at is not None
    assert created.expires_at - created.created_at == 7200
    assert client.files.retrieve(created.id) == created
    assert list(client.files.list()) == [created]
    assert client.files.content(created.id).read() == data

    # And it is gone when it is deleted
    assert client.files.delete(created.id).deleted
    with pytest.raises(openai.NotFoundError) as raised:
        client.files.content(created.id)
    assert error_of(raised) == (404, "file_not_found", "file_id")
    assert list(client.files.list()) == []


def test_lists_go_on_from_page_to_page_in_either_order(client: openai.OpenAI) -> None:
    ids = [upload(client, str(number)) for number in range(5)]

    assert [file.id for file in client.files.list(limit=2)] == ids[::-1]
    assert [file.id for file in client.files.list(limit=2, order="asc")] == ids
    assert [file.id for file in client.files.list(limit=2, purpose="batch_output")] == []


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"purpose": "fine-tune"}, "purpose"),
        ({"purpose": "batch", "expires_after": {"anchor": "created_at", "seconds": 5}}, "expires_after"),
        ({"purpose": "batch", "expires_after": {"anchor": "last_active_at", "seconds": 7200}}, "expires_after"),
    ],
)
def test_an_upload_that_cannot_be_honoured_is_refused_by_name(
    client: openai.OpenAI, options: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.files.create(file=b"{}", **options)
    assert raised.value.param == param
    assert list(client.files.list()) == []


def test_a_file_over_the_limit_leaves_nothing_behind(client: openai.OpenAI, redis_process: RedisProcess) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        client.files.create(file=b"x" * 2_000_001, purpose="batch")
    assert error_of(raised) == (413, "request_too_large", "file")
    # And all files together have a limit too
    client.files.create(file=b"x" * 1_900_000, purpose="batch")
    with pytest.raises(openai.BadRequestError) as full:
        client.files.create(file=b"x" * 1_900_000, purpose="batch")
    assert error_of(full) == (400, "storage_full", "file")

    with redis.Redis.from_url(redis_process.url) as connection:
        stored = {key.split(b":")[2] for key in connection.keys("glowl:file_data:*")}
    assert stored == {file.id.encode() for file in client.files.list()}


def test_what_is_no_upload_is_refused_in_the_callers_language(api: AppServer) -> None:
    headers = {"authorization": "Bearer alice", "accept-language": "zh"}
    with httpx.Client(base_url=api.url, trust_env=False, headers=headers) as http:
        answers = [
            http.post("/v1/files", json={"purpose": "batch"}),
            http.post("/v1/files", files={"other": b"x"}, data={"purpose": "batch"}),
            http.post("/v1/files", files={"file": b"x"}),
            http.post("/v1/files", content=b"--b\r\n", headers={"content-type": "multipart/form-data; boundary=b"}),
        ]
    assert [(each.status_code, each.json()["error"]["param"]) for each in answers] == [
        (400, None),
        (400, "file"),
        (400, "purpose"),
        (400, None),
    ]
    assert not any(each.json()["error"]["message"].isascii() for each in answers)


def test_a_batch_is_created_retrieved_listed_and_cancelled(client: openai.OpenAI) -> None:
    # Given nobody who would run a job
    file_id = upload(client, *(line(f"q{number}") for number in range(50)))
    created = begin(client, file_id, metadata={"night": "1"})

    # Then the batch is described as OpenAI's are
    assert created.id.startswith("batch_")
    assert (created.object, created.status, created.endpoint) == ("batch", "validating", CHAT)
    assert (created.input_file_id, created.completion_window) == (file_id, "24h")
    assert created.metadata == {"night": "1"}
    assert created.expires_at is not None
    assert created.expires_at - created.created_at == DAY_S
    running = wait(client, created.id, "in_progress")
    assert running.request_counts is not None
    assert (running.request_counts.total, running.request_counts.completed) == (50, 0)
    other = begin(client, file_id)
    assert [batch.id for batch in client.batches.list(limit=1)][:2] == [other.id, created.id]

    # And its lines are jobs that give way to all others, in a list of their own
    lines = wait_until(lambda: jobs(client, batch_id=created.id), "the first of its lines")
    assert {job["batch_id"] for job in lines} == {created.id}
    mine = client.responses.create(model="mplug-owl2", input="Mine?", background=True)
    assert [(job["id"], job["batch_id"]) for job in jobs(client)] == [(mine.id, None)]
    assert client.responses.retrieve(mine.id).model_extra["hybrid"]["queue"]["position"] == 1  # type: ignore[index]
    client.responses.delete(mine.id)

    # And cancelling it ends every line, and each is named in the error file
    assert client.batches.cancel(created.id).status == "cancelling"
    client.batches.cancel(other.id)
    done = wait(client, created.id, "cancelled")
    assert done.request_counts is not None
    assert (done.request_counts.total, done.request_counts.failed) == (50, 50)
    assert (done.output_file_id, done.cancelled_at is None, done.cancelling_at is None) == (None, False, False)
    errors = read(client, done.error_file_id)
    assert set(errors) == {f"q{number}" for number in range(50)}
    assert {entry["error"]["code"] for entry in errors.values()} == {"batch_cancelled"}
    assert client.files.list(purpose="batch_output").data
    assert client.batches.cancel(created.id).status == "cancelled"
    wait(client, other.id, "cancelled")


def test_each_bad_line_has_its_own_entry_in_the_error_file(client: openai.OpenAI) -> None:
    # Given a file in which no line can become a job
    bad_picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    no_model = {"messages": [{"role": "user", "content": "hello"}]}
    lines: list[dict[str, Any] | str] = [
        "{not json",
        "",
        '["a list"]',
        line(""),
        line("wrong-method", method="GET"),
        line("wrong-url", url="/v1/embeddings"),
        line("no-body", body=None),
        line("no-model", body=no_model),
        line("streamed", body={**no_model, "model": "glowl", "stream": True}),
        line("unknown-model", body={**no_model, "model": "gpt-9"}),
        line("bad-picture", body={"model": "glowl", "messages": [{"role": "user", "content": bad_picture}]}),
        line("long", padding="x" * 700_000),
    ]
    created = begin(client, upload(client, *lines))
    done = wait(client, created.id, "completed")

    # Then the batch completes, and says of each line what is wrong with it
    assert done.request_counts is not None
    assert (done.request_counts.total, done.request_counts.failed) == (11, 11)
    assert done.output_file_id is None
    assert done.error_file_id is not None
    entries = [json.loads(text) for text in client.files.content(done.error_file_id).text.splitlines()]
    unnamed = {entry["error"]["line"]: entry["error"]["code"] for entry in entries if entry["custom_id"] is None}
    assert unnamed == {
        1: "invalid_json_line",
        3: "invalid_json_line",
        4: "invalid_custom_id",
        12: "line_too_large",
    }
    named = {entry["custom_id"]: entry for entry in entries if entry["custom_id"]}
    assert {name: entry["error"]["code"] for name, entry in named.items() if entry["error"]} == {
        "wrong-method": "invalid_method",
        "wrong-url": "mismatched_endpoint",
        "no-body": "invalid_body",
    }
    # And a request that was refused has the envelope that the endpoint would have sent
    refused = {name: entry["response"] for name, entry in named.items() if entry["response"]}
    assert {name: (answer["status_code"], answer["body"]["error"]["param"]) for name, answer in refused.items()} == {
        "no-model": (400, "model"),
        "streamed": (400, "stream"),
        "unknown-model": (404, "model"),
        "bad-picture": (400, "messages[0].content[0].image_url.url"),
    }
    assert all(answer["request_id"] for answer in refused.values())


def test_a_second_line_of_the_same_name_is_an_error_and_the_first_is_not(client: openai.OpenAI) -> None:
    created = begin(client, upload(client, line("twin"), line("twin")))

    def failed_one() -> bool:
        counts = client.batches.retrieve(created.id).request_counts
        return counts is not None and counts.failed == 1

    wait_until(failed_one, "the second line to be refused")
    client.batches.cancel(created.id)
    done = wait(client, created.id, "cancelled")
    assert done.error_file_id is not None
    entries = [json.loads(text) for text in client.files.content(done.error_file_id).text.splitlines()]
    assert [(entry["error"]["line"], entry["error"]["code"]) for entry in entries] == [
        (2, "duplicate_custom_id"),
        (1, "batch_cancelled"),
    ]


def test_a_file_without_a_line_fails_the_batch_as_a_whole(client: openai.OpenAI) -> None:
    done = wait(client, begin(client, upload(client, "", "  ", "")).id, "failed")

    assert done.errors is not None
    assert done.errors.data is not None
    assert [(error.code, error.param) for error in done.errors.data] == [("empty_file", "input_file_id")]
    assert done.failed_at is not None


def test_errors_of_a_batch_come_in_the_language_of_whoever_created_it(client: openai.OpenAI) -> None:
    file_id = upload(client, line("unknown-model", body={"model": "gpt-9", "messages": []}), "{")
    chinese = client.with_options(default_headers={"accept-language": "zh-CN"})
    done = wait(client, begin(chinese, file_id).id, "completed")

    assert done.error_file_id is not None
    entries = [json.loads(text) for text in client.files.content(done.error_file_id).text.splitlines()]
    messages = [(entry["error"] or entry["response"]["body"]["error"])["message"] for entry in entries]
    assert not any(message.isascii() for message in messages)


def test_files_and_batches_of_others_are_not_there(client: openai.OpenAI, bob: openai.OpenAI) -> None:
    file_id = upload(client, line("a"))
    batch = begin(client, file_id)

    attempts = [
        lambda: bob.files.retrieve(file_id),
        lambda: bob.files.content(file_id),
        lambda: bob.files.delete(file_id),
        lambda: bob.batches.retrieve(batch.id),
        lambda: bob.batches.cancel(batch.id),
        lambda: begin(bob, file_id),
    ]
    for attempt in attempts:
        with pytest.raises(openai.NotFoundError):
            attempt()
    assert list(bob.files.list()) == []
    assert list(bob.batches.list()) == []
    client.batches.cancel(batch.id)
    wait(client, batch.id, "cancelled")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
        ({"metadata": {"webhook_url": "ftp://x"}}, "metadata.webhook_url"),
    ],
)
def test_a_batch_that_cannot_be_honoured_is_refused_by_name(
    client: openai.OpenAI, change: dict[str, Any], param: str
) -> None:
    options = {"input_file_id": upload(client, line("a")), "endpoint": CHAT, "completion_window": "24h", **change}
    with pytest.raises(openai.BadRequestError) as raised:
        client.batches.create(**options)
    assert raised.value.param == param


def test_the_api_page_describes_files_and_batches(api: AppServer) -> None:
    with httpx.Client(base_url=api.url, trust_env=False) as http:
        page = http.get("/openapi.json").json()
    body = page["paths"]["/v1/files"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert body["required"] == ["file", "purpose"]
    assert "BatchCreate" in page["components"]["schemas"]
