"""Where children listen."""

import socket
from pathlib import Path

import pytest

from router.cli.net import PortInUseError, base_url, check_port, free_port, local_address


def test_a_short_plain_path_becomes_a_unix_socket():
    address = local_address(Path("/data/run/glm.sock"))
    assert address.uds == Path("/data/run/glm.sock")
    assert address.url == "unix:///data/run/glm.sock"


@pytest.mark.parametrize("path", ["/" + "x" * 100, "/Application Support/glm.sock", "/数据/glm.sock", "/a#b.sock"])
def test_a_path_too_long_or_odd_for_a_url_becomes_a_loopback_port(path):
    address = local_address(Path(path))
    assert address.uds is None
    assert address.url == f"http://127.0.0.1:{address.port}"
    check_port("127.0.0.1", address.port)


def test_a_path_of_exactly_the_limit_is_still_a_socket():
    assert local_address(Path("/" + "x" * 99)).uds is not None


def test_a_port_somebody_listens_on_is_refused_and_free_again_afterwards():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"127.0.0.1:{port}: .*in use"):
            check_port("127.0.0.1", port)
        assert free_port("127.0.0.1") != port
    check_port("127.0.0.1", port)


def test_an_address_that_is_not_this_machines_is_refused():
    with pytest.raises(PortInUseError, match=r"192\.0\.2\.1"):
        check_port("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("fe80::1", "http://[fe80::1]:80"),
        ("box.local", "http://box.local:80"),
    ],
)
def test_the_shown_url_is_one_that_a_client_here_can_use(host, url):
    assert base_url(host, 80) == url
