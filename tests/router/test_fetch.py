"""`router.fetch`: what is refused before and at the connection, and what bounds a transfer."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from router.fetch import (
    MAX_AT_ONCE,
    MAX_REDIRECTS,
    FetchFailedError,
    FetchTooLargeError,
    PostAnswer,
    SafeFetcher,
    UrlRefusedError,
    fetching_for,
    is_public_address,
    parse_url,
)
from router.settings import Settings

LIMIT = 100_000

PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
NOT_PUBLIC = {
    "10.0.0.1": "private",
    "172.16.3.4": "private",
    "192.168.1.1": "private",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "169.254.169.254": "metadata",
    "169.254.1.1": "link-local",
    "100.100.100.200": "metadata in carrier NAT",
    "168.63.129.16": "metadata in public space",
    "192.0.0.192": "metadata in protocol assignments",
    "0.0.0.0": "unspecified",
    "0.1.2.3": "this network",
    "224.0.0.1": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "broadcast",
    "198.18.0.1": "benchmarking",
    "192.0.2.1": "documentation",
    "192.88.99.1": "6to4 relay",
    "::1": "loopback",
    "::": "unspecified",
    "fe80::1": "link-local",
    "fec0::1": "site-local",
    "fc00::1": "unique local",
    "fd00:ec2::254": "metadata",
    "ff02::1": "multicast",
    "ff0e::1": "global multicast",
    "2001::1": "Teredo",
    "2001:db8::1": "documentation",
    "3fff::1": "documentation",
    "::ffff:127.0.0.1": "IPv4-mapped loopback",
    "::ffff:10.0.0.1": "IPv4-mapped private",
    "::ffff:a9fe:a9fe": "IPv4-mapped metadata",
    "::127.0.0.1": "IPv4-compatible loopback",
    "::ffff:0:127.0.0.1": "IPv4-translated loopback",
    "64:ff9b::7f00:1": "NAT64 of loopback",
    "64:ff9b::a9fe:a9fe": "NAT64 of metadata",
    "64:ff9b:1::1": "local NAT64",
    "2002:7f00:1::": "6to4 of loopback",
    "2002:a00:1::": "6to4 of private",
}


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_pass(address: str) -> None:
    assert is_public_address(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", NOT_PUBLIC, ids=lambda address: f"{NOT_PUBLIC[address]} {address}")
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert not is_public_address(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/a.png",
        "file:///etc/passwd",
        "gopher://example.com/",
        "//example.com/a.png",
        "example.com/a.png",
        "http:///a.png",
        "http://",
        "",
        "http://user@example.com/",
        "http://user:secret@example.com/",
        "http://:secret@example.com/",
        "http://example.com:99999/",
        "http://example.com:port/",
        "http://example.com:0/",
        "http://exam\nple.com/",
        "http://example.com/a\r\nHost: other",
        "http://example.com\\@10.0.0.1/",
        "http://[::1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://127.1/",
        "http://0177.0.0.1/",
        "http://127.0.0.0x1/",
        "http://1/",
        "http://127%2e0%2e0%2e1/",
        "https://example.com/" + "a" * 9000,
        f"https://{'a' * 64}.com/",
        f"https://{'a.' * 126}com/",
        "https://a..com/",
    ],
)
@pytest.mark.parametrize("allow_private", [False, True])
def test_urls_of_a_wrong_shape_are_refused_whatever_the_address_setting(url: str, allow_private: bool) -> None:
    with pytest.raises(UrlRefusedError) as refusal:
        parse_url(url, allow_private=allow_private)
    assert refusal.value.text.en != refusal.value.text.zh


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost/",
        "http://LOCALHOST:8000/",
        "http://localhost./",
        "http://api.localhost/",
        "http://127.0.0.1/",
        "http://127.0.0.1./",
        "http://①②⑦.0.0.1/",
        "http://127。0。0。1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[fe80::1%25eth0]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/",
    ],
)
def test_local_urls_pass_only_when_private_addresses_are_allowed(url: str) -> None:
    with pytest.raises(UrlRefusedError):
        parse_url(url)
    parse_url(url, allow_private=True)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com:8443/a.png?sig=a%2Fb%2Bc%3D",
        " https://example.com/a.png ",
        "http://8.8.8.8/",
        "https://例子.测试/图片.png",
        "http://[2606:4700:4700::1111]/",
        "HTTPS://EXAMPLE.COM/A.PNG",
        f"https://{'a' * 63}.com/",
        f"https://{'a.' * 126}c./",
    ],
)
def test_public_urls_pass(url: str) -> None:
    assert parse_url(url).host


def test_an_encoded_url_stays_as_it_was_signed() -> None:
    assert str(parse_url("https://example.com/a%7Eb?sig=a%2Fb%20c")) == "https://example.com/a%7Eb?sig=a%2Fb%20c"


@pytest.mark.parametrize(
    ("url", "escaped"),
    [
        ("https://example.com/my cat.png", "https://example.com/my%20cat.png"),
        ("  https://example.com/a  b.png?q=a b#c d\n", "https://example.com/a%20%20b.png?q=a%20b#c%20d"),
        ("https://example.com/我的 猫.png", "https://example.com/%E6%88%91%E7%9A%84%20%E7%8C%AB.png"),
        ("https://example.com/é%20é?sig=a%2Fb+c", "https://example.com/%C3%A9%20%C3%A9?sig=a%2Fb+c"),
        ("https://例子.测试/图 1.png", "https://xn--fsqu00a.xn--0zwm56d/%E5%9B%BE%201.png"),
        ('https://example.com:8443/a<b>"c"`{d}', "https://example.com:8443/a%3Cb%3E%22c%22%60%7Bd%7D"),
        ("https://example.com/100%/a b", "https://example.com/100%/a%20b"),
        ("https://example.com/a;v=1,2/(b)[c]'d'!*~|^@", "https://example.com/a;v=1,2/(b)[c]'d'!*~|^@"),
        ("https://example.com?q=a b", "https://example.com/?q=a%20b"),
    ],
)
def test_what_browsers_escape_is_escaped_and_nothing_else(url: str, escaped: str) -> None:
    assert str(parse_url(url)) == escaped


@pytest.mark.parametrize(
    "url", ["http://exam ple.com/", "http:// example.com/", "http://example.com :80/", "http ://a/"]
)
def test_blanks_in_the_host_are_refused(url: str) -> None:
    with pytest.raises(UrlRefusedError):
        parse_url(url)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site:
    """A real server on loopback whose handlers a test adds; it remembers what was asked of it."""

    def __init__(self) -> None:
        self.seen: list[web.Request] = []
        self.released = asyncio.Event()  # ends handlers that hang on purpose
        self._handlers: dict[str, Handler] = {}
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self.server = TestServer(app)

    def on(self, path: str, handler: Handler) -> str:
        self._handlers[path] = handler
        return self.url(path)

    def url(self, path: str) -> str:
        return str(self.server.make_url(path))

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        return await self._handlers[request.path](request)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    async with site.server:
        yield site
        site.released.set()


@pytest.fixture
async def fetcher() -> AsyncIterator[SafeFetcher]:
    settings = Settings(allow_private_urls=True, fetch_timeout_s=5, max_image_bytes=LIMIT)
    async with SafeFetcher(settings) as fetcher:
        yield fetcher


def answering(
    body: bytes = b"", *, status: int = 200, headers: dict[str, str] | None = None, content_type: str = "image/png"
) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=body, status=status, headers=headers, content_type=content_type)

    return handler


def redirecting(location: str) -> Handler:
    return answering(status=302, headers={"Location": location})


async def test_a_body_comes_back_with_its_type(site: Site, fetcher: SafeFetcher) -> None:
    url = site.on("/a.png", answering(b"bytes", content_type="IMAGE/PNG"))
    body = await fetcher.get(url)
    assert (body.data, body.content_type) == (b"bytes", "image/png")


async def test_a_body_exactly_at_the_limit_passes(site: Site, fetcher: SafeFetcher) -> None:
    assert len((await fetcher.get(site.on("/", answering(b"x" * LIMIT)))).data) == LIMIT


async def test_an_announced_body_over_the_limit_is_refused_before_it_is_read(site: Site, fetcher: SafeFetcher) -> None:
    # Given a server that announces too much and then sends nothing
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(LIMIT + 1)})
        await response.prepare(request)
        await site.released.wait()
        return response

    # Then the refusal does not wait for it
    with pytest.raises(FetchTooLargeError):
        await fetcher.get(site.on("/", handler))


async def test_an_endless_body_without_a_length_is_cut_at_the_limit(site: Site, fetcher: SafeFetcher) -> None:
    # Given a server that never stops sending
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        while not site.released.is_set():
            await response.write(b"x" * 10_000)
        return response

    with pytest.raises(FetchTooLargeError):
        await fetcher.get(site.on("/", handler))
    site.released.set()


@pytest.mark.parametrize("starts", [False, True], ids=["no headers", "headers, then nothing"])
async def test_a_server_that_stalls_is_given_up_on(site: Site, starts: bool) -> None:
    # Given a server that goes silent
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if starts:
            await response.prepare(request)
            await response.write(b"x")
        await site.released.wait()
        return response

    url = site.on("/", handler)
    # When it is fetched with little patience
    async with SafeFetcher(Settings(allow_private_urls=True, fetch_timeout_s=0.05)) as fetcher:
        # Then the failure names the time
        with pytest.raises(FetchFailedError, match=r"0\.05 seconds"):
            await fetcher.get(url)


@pytest.mark.parametrize("status", [201, 204, 206, 304, 400, 404, 500])
async def test_any_status_but_200_is_a_failure_that_names_it(site: Site, fetcher: SafeFetcher, status: int) -> None:
    with pytest.raises(FetchFailedError, match=str(status)):
        await fetcher.get(site.on("/", answering(status=status)))


async def test_a_compressed_body_is_refused(site: Site, fetcher: SafeFetcher) -> None:
    url = site.on("/", answering(b"\x1f\x8b", headers={"Content-Encoding": "gzip"}))
    with pytest.raises(FetchFailedError, match="compressed"):
        await fetcher.get(url)
    assert site.seen[0].headers["Accept-Encoding"] == "identity"


async def test_a_connection_that_breaks_off_is_a_failure(site: Site, fetcher: SafeFetcher) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "50"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.close()
        return response

    with pytest.raises(FetchFailedError):
        await fetcher.get(site.on("/", handler))


async def test_a_closed_port_is_a_failure(fetcher: SafeFetcher, unused_tcp_port: int) -> None:
    with pytest.raises(FetchFailedError, match="could not be reached"):
        await fetcher.get(f"http://127.0.0.1:{unused_tcp_port}/")


async def test_redirects_are_followed_to_the_end(site: Site, fetcher: SafeFetcher) -> None:
    # Given as many redirects as are allowed, relative and absolute
    end = site.on("/end", answering(b"end"))
    site.on(f"/{MAX_REDIRECTS - 1}", redirecting(end))
    for number in range(1, MAX_REDIRECTS - 1):
        site.on(f"/{number}", redirecting(f"{number + 1}" if number % 2 else f"/{number + 1}"))
    start = site.on("/0", redirecting("/1"))
    # When the first is fetched, then the last is found
    body = await fetcher.get(start)
    assert body.data == b"end"
    assert len(site.seen) == MAX_REDIRECTS + 1 == 11


@pytest.mark.parametrize(
    ("location", "path"),
    [("/my cat.png", "/my cat.png"), ("猫 1.png?a=b c", "/猫 1.png"), ("//HOST/a b", "/a b"), ("?a b", "/start")],
)
async def test_where_a_redirect_leads_is_escaped_too(
    site: Site, fetcher: SafeFetcher, location: str, path: str
) -> None:
    site.on(path, answering(b"found"))
    at_host = f"{site.server.host}:{site.server.port}"
    visits = []

    async def once(request: web.Request) -> web.Response:
        visits.append(request.path_qs)
        if len(visits) > 1:
            return web.Response(body=b"found")
        return web.Response(status=302, headers={"Location": location.replace("HOST", at_host)})

    start = site.on("/start", once)
    assert (await fetcher.get(start)).data == b"found"


async def test_sites_are_told_who_asks(site: Site) -> None:
    url = site.on("/", answering())
    for settings in (Settings(allow_private_urls=True), Settings(allow_private_urls=True, contact="ops@shop.example")):
        async with SafeFetcher(settings) as fetcher:
            await fetcher.get(url)
            await fetcher.post_json(url, b"{}")
    agents = [request.headers["User-Agent"] for request in site.seen]
    assert agents[0] == agents[1]
    assert re.fullmatch(r"Glowl/\S+ \(\+https://\S+\)", agents[0])
    assert agents[2] == agents[3] == agents[0].replace(agents[0][agents[0].index("+") :], "+ops@shop.example)")


@pytest.mark.parametrize("contact", ["", "a b", "a\r\nHost: b", "联系", "x" * 201])
def test_a_contact_that_is_no_header_stops_the_start(contact: str) -> None:
    with pytest.raises(ValueError, match="contact"):
        Settings(contact=contact)


async def test_a_host_that_hangs_holds_up_neither_its_owners_other_downloads_nor_anybody_elses(
    site: Site, fetcher: SafeFetcher
) -> None:
    # Given a site that says nothing, and far more downloads from it than there are places
    async def hang(_: web.Request) -> web.StreamResponse:
        await site.released.wait()
        return web.Response()

    silent = site.on("/silent", hang)
    with fetching_for("ann"):
        flood = [asyncio.create_task(fetcher.get(silent)) for _ in range(3 * MAX_AT_ONCE)]
    await asyncio.sleep(0)

    # Then another host (as the fetcher sees it) and another owner are served at once
    prompt = Site()
    async with prompt.server:
        url = prompt.on("/a.png", answering(b"prompt"))
        for owner, where in (("ann", url.replace("127.0.0.1", "localhost")), ("bob", url)):
            with fetching_for(owner):
                assert (await fetcher.get(where)).data == b"prompt"
    assert len(site.seen) <= MAX_AT_ONCE / 4
    for task in flood:
        task.cancel()
    await asyncio.gather(*flood, return_exceptions=True)


async def test_who_waits_for_a_place_in_vain_is_told_so(site: Site) -> None:
    async def hang(_: web.Request) -> web.StreamResponse:
        await site.released.wait()
        return web.Response()

    url = site.on("/silent", hang)
    async with SafeFetcher(Settings(allow_private_urls=True, fetch_timeout_s=0.3)) as fetcher:
        failures = await asyncio.gather(*[fetcher.get(url) for _ in range(MAX_AT_ONCE)], return_exceptions=True)
    said = {str(each) for each in failures}
    assert any("did not finish" in each for each in said)
    assert any("Too many slow downloads" in each for each in said)


async def test_one_redirect_too_many_is_a_failure(site: Site, fetcher: SafeFetcher) -> None:
    with pytest.raises(FetchFailedError, match="redirects more than 10"):
        await fetcher.get(site.on("/loop", redirecting("/loop")))
    assert len(site.seen) == MAX_REDIRECTS + 1


@pytest.mark.parametrize("location", ["file:///etc/passwd", "http://user:pw@example.com/", "http://2130706433/"])
async def test_a_redirect_to_a_wrong_url_is_refused(site: Site, fetcher: SafeFetcher, location: str) -> None:
    with pytest.raises(UrlRefusedError):
        await fetcher.get(site.on("/", redirecting(location)))


async def test_proxies_of_the_environment_are_not_used(
    site: Site, fetcher: SafeFetcher, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    # Given an environment whose proxy would have to answer
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_tcp_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    # Then the site is reached without it
    assert (await fetcher.get(site.on("/", answering(b"direct")))).data == b"direct"


class FakeDns:
    """Answers with the given lists, one per question, the last one again and again."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def guarded(dns: FakeDns, *, allow_private: bool = False) -> SafeFetcher:
    return SafeFetcher(Settings(allow_private_urls=allow_private, fetch_timeout_s=5), resolve=dns)


@pytest.mark.parametrize(
    "addresses",
    [["10.0.0.1"], ["127.0.0.1"], ["169.254.169.254"], ["::1"], ["fd00:ec2::254"], ["8.8.8.8", "10.0.0.1"]],
    ids=str,
)
async def test_a_name_that_leads_to_a_private_address_is_refused(addresses: list[str]) -> None:
    dns = FakeDns(addresses)
    async with guarded(dns) as fetcher:
        with pytest.raises(UrlRefusedError) as refusal:
            await fetcher.get("http://pictures.example/a.png")
        with pytest.raises(UrlRefusedError):
            await fetcher.post_json("http://pictures.example/hook", b"{}")
    # Then the answer does not tell what DNS said
    assert not any(address in refusal.value.text.en for address in addresses)
    assert dns.asked == ["pictures.example"] * 2


async def test_a_name_without_addresses_is_a_failure() -> None:
    async with guarded(FakeDns([])) as fetcher:
        with pytest.raises(FetchFailedError, match="host name was not found"):
            await fetcher.get("http://pictures.example/a.png")


async def test_the_vetted_address_is_the_one_connected_to_and_dns_is_asked_once(site: Site) -> None:
    # Given a name that leads to the site now and elsewhere a moment later
    site.on("/a.png", answering(b"pinned"))
    dns = FakeDns(["127.0.0.1"], ["192.0.2.1"])
    async with guarded(dns, allow_private=True) as fetcher:
        # When it is fetched
        body = await fetcher.get(f"http://pictures.example:{site.server.port}/a.png")
    # Then the first answer was used, and the server saw the name
    assert body.data == b"pinned"
    assert dns.asked == ["pictures.example"]
    assert site.seen[0].headers["Host"] == f"pictures.example:{site.server.port}"


async def test_cookies_are_not_kept(site: Site) -> None:
    # Given a site with a name, since cookies of bare addresses are dropped anyway
    site.on("/", answering(headers={"Set-Cookie": "a=b; Path=/"}))
    async with guarded(FakeDns(["127.0.0.1"]), allow_private=True) as fetcher:
        for _ in range(2):
            await fetcher.get(f"http://pictures.example:{site.server.port}/")
    assert "Cookie" not in site.seen[1].headers


async def test_a_redirect_is_vetted_like_a_first_address(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a public site, played by loopback, that redirects inwards
    monkeypatch.setattr("router.fetch.is_public_address", lambda address: str(address) == "127.0.0.1")
    site.on("/literal", redirecting("http://10.0.0.1/"))
    site.on("/name", redirecting("http://inside.example/"))
    dns = FakeDns(["127.0.0.1"], ["169.254.169.254"])
    async with guarded(dns) as fetcher:
        base = f"http://public.example:{site.server.port}"
        # Then neither a literal address nor a name gets through
        with pytest.raises(UrlRefusedError):
            await fetcher.get(f"{base}/name")
        with pytest.raises(UrlRefusedError):
            await fetcher.get(f"{base}/literal")
    assert [request.path for request in site.seen] == ["/name", "/literal"]
    assert dns.asked == ["public.example", "inside.example"]


async def test_a_post_sends_the_bytes_as_they_are_and_returns_the_status(site: Site, fetcher: SafeFetcher) -> None:
    # Given a receiver
    received: list[bytes] = []

    async def handler(request: web.Request) -> web.Response:
        received.append(await request.read())
        return web.Response(status=202)

    # When a document is posted, then it arrives unchanged, with its headers
    assert await fetcher.post_json(site.on("/hook", handler), b'{"a": 1}', {"webhook-id": "evt_1"}) == PostAnswer(202)
    assert received == [b'{"a": 1}']
    assert site.seen[0].headers["Content-Type"] == "application/json"
    assert site.seen[0].headers["webhook-id"] == "evt_1"


async def test_a_post_does_not_follow_redirects(site: Site, fetcher: SafeFetcher) -> None:
    url = site.on("/hook", redirecting("/elsewhere"))
    assert (await fetcher.post_json(url, b"{}")).status == 302
    assert len(site.seen) == 1


async def test_a_fetcher_works_again_after_it_was_closed(site: Site, fetcher: SafeFetcher) -> None:
    url = site.on("/", answering(b"again"))
    await fetcher.get(url)
    await fetcher.aclose()
    assert (await fetcher.get(url)).data == b"again"
