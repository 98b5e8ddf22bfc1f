"""Connections to an engine server: kept, given up, and what a server may do that ends one."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from engines.http import pool as pools
from engines.http.pool import Answer, BrokenError, Pool, UnreachableError

# A hang guard, no expectation.
LONG_S = 60.0
Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 5\r\n\r\nwhole"


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((each for each in head.lower().split(b"\r\n") if each.startswith(b"content-length:")), b":0")
    return head + await reader.readexactly(int(length.split(b":")[1]))


def answering(*answers: bytes, ends: bool = False) -> Handle:
    """Answer each request of a connection with the same pieces."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            for answer in answers:
                writer.write(answer)
                await writer.drain()
            if ends:
                return

    return handle


class Server:
    """One server; counts its connections."""

    def __init__(self) -> None:
        self.num_connections = 0
        self.url = ""


@contextlib.asynccontextmanager
async def serving(handle: Handle, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    served, tasks = Server(), set[asyncio.Task[None]]()

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.num_connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handle(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0, ssl=tls)
    async with server:
        scheme = "http" if tls is None else "https"
        served.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield served
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def connected(handle: Handle) -> AsyncIterator[tuple[Pool, Server]]:
    async with serving(handle) as server:
        pool = Pool(server.url, {})
        try:
            yield pool, server
        finally:
            pool.close()


async def ask(pool: Pool, body: list[bytes] | None = None, **headers: str) -> Answer:
    async with asyncio.timeout(LONG_S):
        return await pool.ask("POST", "/v1/x", body or [b"{}"], headers=headers, connect_s=LONG_S, timeout_s=LONG_S)


async def read_all(answer: Answer) -> bytes:
    said = b""
    while piece := await answer.read(asyncio.get_running_loop().time() + LONG_S):
        said += piece
    answer.close()
    return said


async def test_requests_one_after_another_share_a_connection():
    async with connected(answering(WHOLE)) as (pool, server):
        for _ in range(3):
            answer = await ask(pool)
            assert (answer.status, answer.content_type, await read_all(answer)) == (200, "text/plain", b"whole")
        assert server.num_connections == 1


async def test_an_answer_that_was_left_takes_its_connection_with_it():
    async with connected(answering(WHOLE[:-2])) as (pool, server):
        for _ in range(2):
            (await ask(pool)).close()
        assert server.num_connections == 2


async def test_a_connection_is_not_used_again_once_it_was_idle_too_long(monkeypatch):
    monkeypatch.setattr(pools, "KEEP_ALIVE_S", 0.0)
    async with connected(answering(WHOLE)) as (pool, server):
        for _ in range(2):
            await read_all(await ask(pool))
        assert server.num_connections == 2


async def test_a_connection_that_says_it_closes_is_not_used_again():
    closing = WHOLE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with connected(answering(closing)) as (pool, server):
        for _ in range(2):
            assert await read_all(await ask(pool)) == b"whole"
        assert server.num_connections == 2


async def test_a_body_without_a_length_ends_with_the_connection():
    async with connected(answering(b"HTTP/1.1 200 OK\r\n\r\n", b"as it ", b"comes", ends=True)) as (pool, _):
        assert await read_all(await ask(pool)) == b"as it comes"


@pytest.mark.parametrize(
    "cut",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
    ],
)
async def test_a_body_that_breaks_off_is_no_whole_one(cut):
    async with connected(answering(cut, ends=True)) as (pool, _):
        answer = await ask(pool)
        with pytest.raises(BrokenError):
            await read_all(answer)


async def test_what_comes_before_the_answer_is_passed_over():
    async with connected(answering(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", WHOLE)) as (pool, server):
        for _ in range(2):
            answer = await ask(pool)
            assert (answer.status, await read_all(answer)) == (200, b"whole")
            assert "link" not in answer.headers
        assert server.num_connections == 1


async def test_what_comes_behind_an_answer_is_no_part_of_the_next():
    async with connected(answering(WHOLE + WHOLE.replace(b"whole", b"wrong"))) as (pool, server):
        for _ in range(2):
            assert await read_all(await ask(pool)) == b"whole"
        assert server.num_connections == 2


@pytest.mark.parametrize(
    "said",
    [
        b"220 mail.example ESMTP\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 80_000,
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    ],
)
async def test_what_is_no_answer_is_a_broken_connection(said):
    async with connected(answering(said)) as (pool, _):
        with pytest.raises(BrokenError):
            await ask(pool)


async def test_a_server_that_answers_before_it_has_read_all_is_heard():
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        await asyncio.Event().wait()  # and never reads on

    async with connected(refuse) as (pool, server):
        for _ in range(2):
            answer = await ask(pool, [bytes(50_000_000)])
            assert (answer.status, await read_all(answer)) == (413, b"no")
        assert server.num_connections == 2


async def test_a_large_body_arrives_whole():
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = (await read_request(reader)).partition(b"\r\n\r\n")[2]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()

    sent = [bytes([number]) * 700_000 for number in range(5)]
    async with connected(echo) as (pool, _):
        assert await read_all(await ask(pool, sent)) == b"".join(sent)


async def test_nothing_comes_by_the_time_it_is_waited_for():
    async with connected(answering(WHOLE[:-5])) as (pool, _):
        answer = await ask(pool)
        with pytest.raises(TimeoutError):
            await answer.read(asyncio.get_running_loop().time() + 0.01)
        answer.close()


async def test_an_answer_that_does_not_come_is_a_timeout():
    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.Event().wait()

    async with connected(wait) as (pool, _):
        for body in ([b"{}"], [bytes(50_000_000)]):
            with pytest.raises(TimeoutError):
                await pool.ask("POST", "/v1/x", body, headers={}, connect_s=LONG_S, timeout_s=0.1)


async def test_closing_the_pool_breaks_answers_off():
    async with connected(answering(WHOLE[:-5])) as (pool, _):
        answer = await ask(pool)
        pool.close()
        with pytest.raises(BrokenError):
            await answer.read(asyncio.get_running_loop().time() + LONG_S)


async def test_a_header_cannot_carry_another():
    async with connected(answering(WHOLE)) as (pool, server):
        with pytest.raises(ValueError, match="line break"):
            await ask(pool, x="a\r\nHost: elsewhere")
        assert server.num_connections == 0


async def test_nobody_there_is_unreachable():
    async with serving(answering(WHOLE)) as server:
        url = server.url
    with pytest.raises(UnreachableError):
        await ask(Pool(url, {}))
    with pytest.raises(UnreachableError):
        await ask(Pool("http://no-such-host.invalid", {}))


async def test_a_server_with_a_certificate_is_asked_if_it_is_trusted(monkeypatch, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "engine")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "cert").write_bytes(certificate.public_bytes(pem))
    (tmp_path / "key").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    async with serving(answering(WHOLE), own) as server:
        stranger = Pool(server.url, {})
        with pytest.raises(UnreachableError, match="certificate"):
            await ask(stranger)
        trusting = ssl.create_default_context()
        trusting.load_verify_locations(tmp_path / "cert")
        monkeypatch.setattr(pools.ssl, "create_default_context", lambda: trusting)
        pool = Pool(server.url, {})
        for _ in range(2):
            assert await read_all(await ask(pool)) == b"whole"
        pool.close()
        assert server.num_connections == 1
