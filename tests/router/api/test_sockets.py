"""Responses over a WebSocket: turns, conversations that are not stored, refusals, limits, and how it ends."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from engines.base import InvalidRequestError
from engines.echo import EchoEngine
from router.app import create_app
from router.middleware import sockets
from router.serve import ApiServer
from router.settings import Settings
from tests.support.servers import AppServer, RedisProcess, wait_until

HELLO = {"type": "response.create", "model": "glm-4.6v-flash", "input": "你好"}
SAID = "[echo glm] no pictures, question: "
WAIT_S = 300.0  # a hang, not a busy machine


def url_of(server: AppServer) -> str:
    return server.url.replace("http://", "ws://") + "/v1/responses"


class SocketServer(AppServer):
    """The api's own server, which knows WebSockets, on a thread of this process."""

    def __init__(self, echo_urls: dict[str, str], redis_process: RedisProcess, **settings: Any) -> None:
        self._settings = Settings(
            REDIS_URL=redis_process.url,
            glm_url=echo_urls["glm"],
            owl2_url=echo_urls["owl2"],
            drain_s=WAIT_S,
            **settings,
        )
        super().__init__(create_app(self._settings))

    def _make_server(self) -> ApiServer:
        return ApiServer(self._app, self._settings.model_copy(update={"port": self.port}))


@pytest.fixture(scope="module")
def api(echo_urls: dict[str, str], redis_process: RedisProcess) -> Iterator[SocketServer]:
    server = SocketServer(echo_urls, redis_process)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def keyed_api(echo_urls: dict[str, str], redis_process: RedisProcess) -> Iterator[SocketServer]:
    server = SocketServer(echo_urls, redis_process, api_keys=("alice",))
    yield server
    server.stop()


@pytest.fixture
def socket(api: AppServer) -> Iterator[ClientConnection]:
    with connect(url_of(api), open_timeout=WAIT_S, proxy=None) as opened:
        yield opened


def turn(socket: ClientConnection, **fields: Any) -> list[dict[str, Any]]:
    """Ask, and return the events up to the last one."""
    socket.send(json.dumps({**HELLO, **fields}))
    events = []
    while not events or events[-1]["type"] not in ("response.completed", "response.failed", "error"):
        events.append(json.loads(socket.recv(WAIT_S)))
    return events


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


@pytest.mark.filterwarnings("ignore:connect\\(\\) must be used:DeprecationWarning")  # by openai's client itself
def test_openais_own_client_gets_the_events_of_a_stream_one_turn_after_the_other(client: openai.OpenAI) -> None:
    patient: Any = {"open_timeout": WAIT_S, "proxy": None}
    with client.responses.connect(websocket_connection_options=patient) as connection:
        for question in ("你好", "再见"):
            connection.response.create(model="glm-4.6v-flash", input=question)
            kinds, said = [], ""
            for event in connection:
                kinds.append(event.type)
                said += event.delta if event.type == "response.output_text.delta" else ""
                if event.type == "response.completed":
                    break
            assert kinds[:2] == ["response.created", "response.in_progress"]
            assert said == SAID + question


def test_a_response_that_is_not_stored_is_gone_on_from_on_its_connection_only(
    api: AppServer, socket: ClientConnection, echoes: dict[str, EchoEngine]
) -> None:
    first = turn(socket, store=False)[-1]["response"]

    second = turn(socket, store=False, input="再见", previous_response_id=first["id"])

    asked = echoes["glm"].last_request
    assert asked is not None
    assert [each.text for each in asked.messages] == ["你好", SAID + "你好", "再见"]
    assert second[0]["response"]["previous_response_id"] == first["id"]
    assert second[-1]["response"]["previous_response_id"] == first["id"]
    with connect(url_of(api), open_timeout=WAIT_S, proxy=None) as other:
        (refused,) = turn(other, store=False, previous_response_id=second[-1]["response"]["id"])
        assert (refused["status"], refused["error"]["code"]) == (400, "previous_response_not_found")
        assert turn(other)[-1]["type"] == "response.completed"


def test_a_stored_response_is_gone_on_from_everywhere(
    http: httpx.Client, socket: ClientConnection, echoes: dict[str, EchoEngine]
) -> None:
    body = {"model": "glm-4.6v-flash", "input": "你好"}
    first = http.post("/v1/responses", json=body).json()["id"]

    assert turn(socket, input="再见", previous_response_id=first)[-1]["type"] == "response.completed"

    asked = echoes["glm"].last_request
    assert asked is not None
    assert [each.text for each in asked.messages] == ["你好", SAID + "你好", "再见"]


@pytest.mark.parametrize("is_engine", [False, True], ids=["refused", "failed"])
def test_a_turn_that_fails_lets_go_of_what_it_went_on_from(
    socket: ClientConnection, echoes: dict[str, EchoEngine], *, is_engine: bool
) -> None:
    first = turn(socket, store=False)[-1]["response"]["id"]
    if is_engine:
        echoes["glm"].fail_with = InvalidRequestError("broken")
        failed = turn(socket, store=False, previous_response_id=first)
    else:
        result = {"type": "function_call_output", "call_id": "call_missing", "output": "none"}
        failed = turn(socket, store=False, input=[result], previous_response_id=first)
    assert failed[-1]["type"] in ("error", "response.failed")
    echoes["glm"].fail_with = None

    (refused,) = turn(socket, store=False, previous_response_id=first)

    assert refused["error"]["code"] == "previous_response_not_found"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("not json", "invalid_json"),
        ("[]", "unknown_event"),
        ('{"type": "response.steer"}', "unknown_event"),
        (json.dumps({**HELLO, "background": True}), "unsupported_value"),
        (json.dumps({**HELLO, "generate": False}), "unsupported_value"),
        (json.dumps({**HELLO, "model": "gpt"}), "model_not_found"),
        (json.dumps({"type": "response.create", "model": "glowl"}), "missing_required_parameter"),
        ('{"type": "response.create", "model": "a", "model": "b"}', "repeated_name"),
    ],
    ids=["text", "list", "event", "background", "warm-up", "model", "no input", "twice"],
)
def test_what_cannot_be_done_is_an_error_event_and_the_connection_goes_on(
    socket: ClientConnection, message: str, code: str
) -> None:
    socket.send(message)
    event = json.loads(socket.recv(WAIT_S))

    assert event["type"] == "error"
    assert event["status"] >= 400
    assert event["error"]["code"] == code
    assert turn(socket)[-1]["type"] == "response.completed"


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    "text",
    [
        b"not json",
        b'{"type": "response.create", "model": ',
        b'{"type": "response.create", "model": NaN}',
        b'{"type": "response.create", "model": "\\ud800"}',
        b'{"type": "response.create", "model": "\xff"}',
        b'{"type": "response.create", "a": 1, "a": 2}',
        '{"type": "response.create"}'.encode("utf-16"),
        b"[" * 300 + b"]" * 300,
    ],
    ids=["word", "cut", "NaN", "surrogate", "bytes", "twice", "UTF-16", "deep"],
)
def test_what_is_no_json_is_refused_in_the_words_of_http(
    api: AppServer, http: httpx.Client, text: bytes, language: str
) -> None:
    headers = {"accept-language": language}
    refused = http.post("/v1/responses", content=text, headers=headers)
    with connect(url_of(api), open_timeout=WAIT_S, proxy=None, additional_headers=headers) as socket:
        socket.send(text)
        event = json.loads(socket.recv(WAIT_S))

    assert event == {"type": "error", "status": refused.status_code, **refused.json()}
    assert event["status"] == 400
    assert ("请求体" in event["error"]["message"]) == (language == "zh") or event["error"]["code"] == "repeated_name"


def test_numbers_of_any_size_are_read_as_over_http(socket: ClientConnection) -> None:
    (refused,) = turn(socket, seed=10**30)
    assert (refused["error"]["code"], refused["error"]["param"]) == ("invalid_value", "seed")

    item = {"role": "user", "content": "你好", "odd": 10**30}
    first = turn(socket, store=False, input=[item])[-1]["response"]
    assert turn(socket, store=False, previous_response_id=first["id"])[-1]["type"] == "response.completed"


def test_who_may_not_ask_is_refused_in_the_handshake(keyed_api: AppServer, api: AppServer) -> None:
    refused: list[tuple[int, str]] = []
    for server, headers in (
        (keyed_api, {}),
        (keyed_api, {"Authorization": "Bearer wrong"}),
        (api, {"Origin": "https://evil.example"}),
    ):
        with pytest.raises(InvalidStatus) as error:
            connect(url_of(server), open_timeout=WAIT_S, proxy=None, additional_headers=headers)
        body = json.loads(error.value.response.body or b"")
        refused.append((error.value.response.status_code, body["error"]["code"]))

    assert refused == [(401, "invalid_api_key"), (401, "invalid_api_key"), (403, "origin_not_allowed")]
    key = {"Authorization": "Bearer alice"}
    with connect(url_of(keyed_api), open_timeout=WAIT_S, proxy=None, additional_headers=key) as allowed:
        assert turn(allowed)[-1]["type"] == "response.completed"


def test_what_clients_do_wrong_is_no_error_of_the_service(
    api: AppServer, keyed_api: AppServer, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidStatus):
        connect(url_of(keyed_api), open_timeout=WAIT_S, proxy=None)
    # A character that is cut in two
    with connect(url_of(api), open_timeout=WAIT_S, proxy=None) as socket:
        socket.send(b'{"input": "' + "你".encode()[:2], text=True)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(WAIT_S)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1007
    with connect(url_of(api), open_timeout=WAIT_S, proxy=None) as socket:
        assert turn(socket)[-1]["type"] == "response.completed"
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


def test_an_upgrade_elsewhere_is_an_ordinary_request(api: AppServer) -> None:
    headers = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    answer = httpx.get(api.url + "/v1/models", headers=headers, trust_env=False)
    assert answer.status_code == 200


def test_one_owner_has_so_many_at_a_time_and_an_old_one_is_closed(
    api: AppServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "MAX_OF_OWNER", 1)
    monkeypatch.setattr(sockets, "MAX_AGE_S", 0.0)
    with connect(url_of(api), open_timeout=WAIT_S, proxy=None) as old:
        event = json.loads(old.recv(WAIT_S))
        assert event["error"]["code"] == "websocket_connection_limit_reached"
        with pytest.raises(ConnectionClosed):
            old.recv(WAIT_S)
    monkeypatch.setattr(sockets, "MAX_AGE_S", 3600.0)
    with connect(url_of(api), open_timeout=WAIT_S, proxy=None) as first:
        with pytest.raises(InvalidStatus) as full:
            connect(url_of(api), open_timeout=WAIT_S, proxy=None)
        assert full.value.response.status_code == 429
        assert int(full.value.response.headers["retry-after"]) > 0
        assert turn(first)[-1]["type"] == "response.completed"


@pytest.mark.parametrize("bound", ["MAX_WAITING_BYTES", "MAX_WAITING_OF_ALL"])
def test_turns_wait_within_a_bound_of_their_bytes(
    api: AppServer, echoes: dict[str, EchoEngine], monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    # Given a turn that takes its time, and room for one large message behind it
    monkeypatch.setattr(sockets, bound, 100_000)
    echoes["glm"].delta_delay_s = 0.05
    large = {**HELLO, "store": False, "metadata": {"a": "x"}, "instructions": "y" * 70_000}
    with connect(url_of(api), open_timeout=WAIT_S, proxy=None) as opened:
        opened.send(json.dumps({**HELLO, "store": False, "input": "你好" * 20}))
        while json.loads(opened.recv(WAIT_S))["type"] != "response.output_text.delta":
            pass
        # When two are sent
        opened.send(json.dumps(large))
        opened.send(json.dumps(large))
        # Then the second is dropped, and the first is answered
        seen: list[dict[str, Any]] = []
        while sum(event["type"] == "response.completed" for event in seen) < 2:
            seen.append(json.loads(opened.recv(WAIT_S)))
    refused = [event for event in seen if event["type"] == "error"]
    assert [(event["status"], event["error"]["code"]) for event in refused] == [(429, "too_many_in_flight")]


def test_a_client_that_leaves_ends_its_answer(api: AppServer, echoes: dict[str, EchoEngine]) -> None:
    echo = echoes["glm"]
    echo.delta_delay_s = 0.05
    cancelled = echo.num_cancelled
    with connect(url_of(api), open_timeout=WAIT_S, proxy=None) as leaving:
        leaving.send(json.dumps({**HELLO, "store": False, "input": "你好" * 40}))
        while json.loads(leaving.recv(WAIT_S))["type"] != "response.output_text.delta":
            pass
    wait_until(lambda: echo.num_cancelled > cancelled, "the end of the answer")


def test_a_server_that_stops_lets_the_turn_end_and_says_that_it_restarts(
    echo_urls: dict[str, str], redis_process: RedisProcess, echoes: dict[str, EchoEngine]
) -> None:
    server = SocketServer(echo_urls, redis_process)
    echoes["glm"].delta_delay_s = 0.05
    with connect(url_of(server), open_timeout=WAIT_S, proxy=None) as opened:
        opened.send(json.dumps({**HELLO, "store": False}))
        events = [json.loads(opened.recv(WAIT_S))]
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        while events[-1]["type"] != "response.completed":
            events.append(json.loads(opened.recv(WAIT_S)))
        with pytest.raises(ConnectionClosed) as closed:
            opened.recv(WAIT_S)
        stopping.join()
    assert text_of(events) == SAID + "你好"
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
