"""A real nginx with deploy/nginx in front of two apis: streams, uploads, refusals, an api that goes, one that moves."""

from __future__ import annotations

import json
import os
import shutil
import socket
import socketserver
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from router.api import texts
from router.app import create_app
from router.limits.addresses import Proxies
from router.serve import ApiServer
from router.settings import Settings
from tests.journeys.conftest import Stack
from tests.support.servers import AppServer, Process, free_port, wait_until

NGINX = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
START = Path(__file__).parents[2] / "deploy/nginx/start.sh"
MB = 1024 * 1024

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(NGINX is None, reason="no nginx here (Debian: nginx-light): what stands in front is not tested"),
]


class Names(socketserver.ThreadingUDPServer):
    """A name server: every name has the same addresses, as a service has those of its containers with docker's."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        self.addresses: list[str] = []
        super().__init__(("127.0.0.1", 0), _NameHandler)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _NameHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Names)
        query, sock = self.request
        end = query.index(b"\0", 12) + 5
        is_ipv4 = struct.unpack("!H", query[end - 4 : end - 2])[0] == 1
        answers = [
            b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 600, 4) + socket.inet_aton(address)
            for address in (self.server.addresses if is_ipv4 else [])
        ]
        head = query[:2] + struct.pack("!HHHHH", 0x8180, 1, len(answers), 0, 0)
        sock.sendto(head + query[12:end] + b"".join(answers), self.client_address)


class Api(AppServer):
    """One of several apis: all listen on one port, each on an address of its own."""

    def __init__(self, settings: Settings, host: str, port: int) -> None:
        self._settings = settings.model_copy(
            update={"host": host, "port": port, "log_level": "WARNING", "drain_s": 1.0}
        )
        self.host = host
        super().__init__(create_app(self._settings), port=port)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def _make_server(self) -> ApiServer:
        return ApiServer(self._app, self._settings)


class Edge:
    """nginx, its name server, and the apis behind it.

    Args:
        stack: what the apis work with.
        folder: for nginx's files.
    """

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.folder = folder
        self.settings = Settings(
            REDIS_URL=stack.redis.url,
            glm_url=stack.servers["glm"].url,
            owl2_url=stack.servers["owl2"].url,
            lease_s=1.5,
        )
        self.names = Names()
        self.api_port = free_port()
        self.apis: dict[str, Api] = {}
        for number in (2, 3):
            self.add(f"127.0.0.{number}")
        self._processes: list[Process] = []
        self.url = self.start("plain")

    def add(self, host: str) -> None:
        self.apis[host] = Api(self.settings, host, self.api_port)
        self.names.addresses.append(host)

    def start(self, name: str, **env: str) -> str:
        """Start a further nginx in front of the apis; its base URL without TLS."""
        run = self.folder / name
        run.mkdir()
        port, health = free_port(), free_port()
        env = {
            "EDGE_API": f"http://glowl-api:{self.api_port}",
            "EDGE_RESOLVER": f"127.0.0.1:{self.names.port} valid=1s",
            "EDGE_LISTEN": f"127.0.0.1:{port}",
            "EDGE_HEALTH": f"127.0.0.1:{health}",
            "EDGE_RUN": str(run),
            "EDGE_CERTS": str(run / "none"),
            "PATH": os.environ["PATH"] + ":/usr/sbin",
            **env,
        }
        self._processes.append(Process(["sh", str(START)], run / "log", env))

        def is_healthy() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{health}/", trust_env=False).status_code == 204
            except httpx.TransportError:
                return False

        wait_until(is_healthy, f"nginx, see {run / 'log'}")
        return f"http://127.0.0.1:{port}"

    def client(self, url: str | None = None, local_address: str | None = None) -> httpx.Client:
        """A client that comes from an address of its own."""
        transport = httpx.HTTPTransport(local_address=local_address)
        return httpx.Client(base_url=url or self.url, transport=transport, timeout=120, trust_env=False)

    def stop(self) -> None:
        for process in self._processes:
            process.stop()
        for api in self.apis.values():
            api.stop()
        self.names.shutdown()
        self.names.server_close()


@pytest.fixture(scope="module")
def edge(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    edge = Edge(stack, tmp_path_factory.mktemp("edge"))
    yield edge
    edge.stop()


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    return (json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {"))


def ask(http: httpx.Client, **more: Any) -> httpx.Response:
    return http.post("/v1/responses", json={"model": "glowl", "input": "What is one and one?", **more})


def test_events_arrive_while_the_engine_still_writes_and_a_cut_stream_goes_on_elsewhere(
    stack: Stack, edge: Edge
) -> None:
    # Given an answer that takes a while
    body = {"model": "glowl", "input": "Count to ten.", "background": True, "stream": True, "hybrid": {"route": "deep"}}
    stack.engines["owl2"].delta_delay_s = stack.engines["glm"].delta_delay_s = 0.2
    seen: list[dict[str, Any]] = []
    with edge.client() as http:
        # When its reader goes after the first event
        with http.stream("POST", "/v1/responses", json=body) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            seen.append(next(events(answer.iter_lines())))

        # Then that came before the end, and another connection, to either api, has the rest and no event twice
        response_id = seen[0]["response"]["id"]
        assert seen[0]["type"] == "response.created"
        assert http.get(f"/v1/responses/{response_id}").json()["status"] in ("queued", "in_progress")
        stack.engines["owl2"].delta_delay_s = stack.engines["glm"].delta_delay_s = 0.0
        after = {"stream": "true", "starting_after": seen[-1]["sequence_number"]}
        with http.stream("GET", f"/v1/responses/{response_id}", params=after) as answer:
            seen += list(events(answer.iter_lines()))
    assert seen[-1]["type"] == "response.completed"
    assert [event["sequence_number"] for event in seen] == list(range(len(seen)))


def test_a_websocket_passes(edge: Edge) -> None:
    turn = {"type": "response.create", "model": "glowl", "input": "你好", "hybrid": {"route": "fast"}}
    seen: list[dict[str, Any]] = []
    with connect(f"{edge.url}/v1/responses".replace("http", "ws"), proxy=None, open_timeout=120) as socket:
        for _ in range(2):
            socket.send(json.dumps(turn))
            while not seen or seen[-1]["type"] not in ("response.completed", "response.failed", "error"):
                seen.append(json.loads(socket.recv(120)))
            assert seen[-1]["type"] == "response.completed"
            seen.clear()


def test_a_file_larger_than_any_question_passes_and_comes_back(edge: Edge) -> None:
    # Given more than the limit of a body
    content = b"a" * (edge.settings.max_body_bytes + MB)

    # When it is uploaded
    with edge.client() as http:
        form = {"purpose": "batch"}
        # A busy machine's redis may be silent for a moment, which is a 503 that says to try again
        tries = (http.post("/v1/files", data=form, files={"file": ("a.jsonl", content)}) for _ in range(20))
        uploaded = next(answer for answer in tries if answer.status_code != 503)

        # Then it is there
        assert uploaded.status_code == 200, uploaded.text
        assert uploaded.json()["bytes"] == len(content)
        assert http.get(f"/v1/files/{uploaded.json()['id']}/content").content == content
        http.delete(f"/v1/files/{uploaded.json()['id']}")


def test_seventy_megabytes_are_refused_in_the_apis_own_words(edge: Edge) -> None:
    path, large = "/v1/chat/completions", b" " * 70 * MB
    told = texts.BODY_TOO_LARGE.fill(limit=edge.settings.max_body_bytes)
    with edge.client() as http, edge.client(next(iter(edge.apis.values())).url) as api:
        # When a body over the limit comes, with its length or without
        refused = http.post(path, content=large, headers={"accept-language": "zh-CN"})
        in_pieces = http.post(path, content=iter([large[:MB]] * 70))
        itself = api.post(path, content=large)

    # Then it is nginx that refuses it, as the api would
    assert [answer.status_code for answer in (refused, in_pieces, itself)] == [413, 413, 413]
    assert in_pieces.json() == itself.json()
    assert refused.json() == {"error": itself.json()["error"] | {"message": told.zh}}
    assert refused.headers["server"] == in_pieces.headers["server"] == "nginx"
    assert refused.headers["content-type"] == "application/json; charset=utf-8"
    assert refused.headers["x-request-id"]


class _Headers(BaseHTTPRequestHandler):
    """Says which headers came."""

    def do_GET(self) -> None:
        content = json.dumps([(name.lower(), value) for name, value in self.headers.items()]).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize("trusted", ["127.0.0.1", "127.0.0.0/8"], ids=["nginx", "its network, where callers are too"])
def test_who_asks_is_told_by_nginx_alone(edge: Edge, trusted: str) -> None:
    forged = {"X-Forwarded-For": "203.0.113.7", "Forwarded": "for=203.0.113.8", "X-Forwarded-Proto": "https"}
    with ThreadingHTTPServer(("127.0.0.1", 0), _Headers) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = edge.start(f"who-{len(trusted)}", EDGE_API=f"http://127.0.0.1:{server.server_port}")

        # When a caller says that it comes from elsewhere
        with edge.client(url, local_address="127.0.0.50") as http:
            came = http.get("/v1/models", headers={**forged, "Host": "glowl.example.com"}).json()
        server.shutdown()

    # Then the api hears where it comes from, and by which name it asked
    headers = [(name.encode(), value.encode()) for name, value in came]
    assert Proxies([trusted]).address_of("127.0.0.1", headers) == "127.0.0.50"
    assert dict(came)["host"] == "glowl.example.com"
    assert dict(came)["x-forwarded-proto"] == "http"


def test_answers_go_on_while_apis_go_come_and_move(edge: Edge) -> None:
    with edge.client() as http:
        # Given two apis, both of which answer
        def served() -> set[str]:
            upstreams = (edge.folder / "plain/log").read_text().splitlines()
            return {line.split()[6].partition(":")[0] for line in upstreams if " GET /v1/models " in line}

        wait_until(lambda: http.get("/v1/models").status_code and served() >= {"127.0.0.2", "127.0.0.3"}, "both apis")

        # When one is gone before its name is
        edge.apis.pop("127.0.0.2").stop()
        # Then the other answers, to questions too
        assert [ask(http).status_code for _ in range(4)] == [200] * 4

        # When both are gone
        edge.apis.pop("127.0.0.3").stop()
        away = http.get("/v1/models", headers={"accept-language": "zh"})
        # Then nginx says so as the api would
        assert (away.status_code, away.headers["retry-after"]) == (503, "2")
        assert away.json()["error"] == {
            "message": "服务暂时无法访问，请稍后重试。",
            "type": "server_error",
            "param": None,
            "code": "service_unavailable",
        }

        # When they come back under another address
        edge.names.addresses.clear()
        edge.add("127.0.0.4")
        # Then they are found there
        wait_until(lambda: http.get("/v1/models").status_code == 200, "the api that moved")


def test_with_a_certificate_it_speaks_tls_and_sends_others_there(edge: Edge, tmp_path: Path) -> None:
    # Given a certificate
    key = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    for_localhost = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1"]
    files = ["-keyout", str(tmp_path / "privkey.pem"), "-out", str(tmp_path / "fullchain.pem")]
    subprocess.run([*key, *for_localhost, *files], check=True, capture_output=True)

    # When nginx finds it
    url = edge.start("tls", EDGE_CERTS=str(tmp_path))

    # Then it is used
    trusted = ssl.create_default_context(cafile=str(tmp_path / "fullchain.pem"))
    secure = url.replace("http:", "https:")
    with httpx.Client(base_url=secure, verify=trusted, trust_env=False, timeout=60) as http:
        assert ask(http).status_code == 200
    plain = httpx.get(f"{url}/v1/models?limit=1", trust_env=False)
    assert (plain.status_code, plain.headers["location"]) == (308, f"{secure}/v1/models?limit=1")


def test_what_cannot_be_started_with_is_said_in_one_line(tmp_path: Path) -> None:
    def said(**env: str) -> str:
        begun = subprocess.run(
            ["sh", str(START)], env={"PATH": os.environ["PATH"], **env}, capture_output=True, text=True
        )
        assert begun.returncode == 2
        return begun.stderr

    assert "'64m'" in said(GLOWL_MAX_BODY_BYTES="64m")
    (tmp_path / "fullchain.pem").write_text("")
    assert "privkey.pem is not there" in said(EDGE_CERTS=str(tmp_path))
