"""REDIS_URL as people write it: refused where it would mean something else, and never shown with its password."""

import pytest
from pydantic import ValidationError

from router.jobs.queue import create_celery
from router.redis_address import check_redis_url, read, shown
from router.settings import DEFAULT_REDIS_URL, Settings


@pytest.mark.parametrize(
    ("url", "show"),
    [
        ("redis://host", "redis://host"),
        ("redis://host:6380/3", "redis://host:6380/3"),
        ("redis://:geheim@host:1/0", "redis://host:1/0"),
        ("rediss://me:a%40b%2Fc@host:1/0?ssl_cert_reqs=none", "rediss://host:1/0"),
        ("redis://:a:b;c=d&e!@host", "redis://host"),
        ("redis://:密码@host", "redis://host"),
        ("redis://:x@[::1]:6379/0", "redis://[::1]:6379/0"),
        ("unix:///a@b/redis.sock?db=2", "unix:///a@b/redis.sock"),
        ("sentinel://a:1,b,[::1]:3/my-master", "sentinel://a:1,b,[::1]:3/my-master"),
        (
            "sentinels://me:ge%40heim@a,b/mymaster/2?sentinel_password=auch%26geheim&ssl_ca_certs=/ca.pem",
            "sentinels://a,b/mymaster/2",
        ),
        ("unix://me:x@/run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_an_address_is_taken_and_shown_without_its_password(url, show):
    check_redis_url(url)
    assert shown(url) == show


@pytest.mark.parametrize("piece", ["@", "/", "#", "?", "[", "]", "%", " ", "%zz", "/../", "\n", "://", "@@", "@/0#"])
@pytest.mark.parametrize(
    "form",
    [
        "redis://:Hid{}Wen@127.0.0.1:6390/0",
        "rediss://me:{}HidWen@h",
        "unix://:HidWen{}@/s",
        "sentinel://:Hid{}Wen@a,127.0.0.1:6390/m",
    ],
)
def test_a_password_that_is_not_escaped_is_refused_without_a_part_of_it(form, piece):
    url = form.format(piece)
    with pytest.raises(ValueError, match="%2F") as refusal:
        check_redis_url(url)
    assert "\n" not in str(refusal.value)
    for part in ("Hid", "Wen", "127.0.0.1:6390"):
        assert part not in str(refusal.value)
        assert part not in shown(url)
    # And the settings say no more
    with pytest.raises(ValueError, match="REDIS_URL") as refusal:
        Settings(REDIS_URL=url)  # type: ignore[call-arg]
    assert "Hid" not in str(refusal.value)
    assert "Wen" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("host:6379", "redis://"),
        ("http://host", "redis://"),
        ("redis://secret@host", "follows a colon"),
        ("redis://host:secret", "host or its port"),
        ("redis://host:99999", "host or its port"),
        ("redis://host#secret", "host or its port"),
        ("redis://[secret", "host or its port"),
        ("redis://host/secret", "number of a database"),
        ("redis://host/-1", "number of a database"),
        ("unix:///sock?db=secret", "number of a database"),
        ("unix://secret", "whole path"),
        ("redis://host/0?password=secret", "before the host"),
        ("redis://host/0?no_such_option=secret", "options"),
        ("redis://host/0?ssl_ca_certs=secret", "options"),
        ("rediss://host/0?ssl_cert_reqs=secret", "options"),
        ("rediss://host/0?socket_timeout=secret", "options"),
        ("redis://host?sentinel_password=secret", "no sentinels"),
        ("redis://secret,other/0", "host or its port"),
        ("sentinel://host:1", "name of their service"),
        ("sentinel://host/sec ret", "name of their service"),
        ("sentinel://host,/mymaster", "host or its port"),
        ("sentinel:///mymaster", "host or its port"),
        ("sentinel://host:secret,other/mymaster", "host or its port"),
        ("sentinel://host/mymaster/secret", "number of a database"),
        ("sentinel://host/mymaster?ssl_ca_certs=secret", "options"),
        ("sentinel://secret@host/mymaster", "follows a colon"),
    ],
)
def test_what_would_be_read_in_two_ways_is_refused(url, said):
    with pytest.raises(ValueError, match=said) as refusal:
        check_redis_url(url)
    assert "secret" not in str(refusal.value)
    assert shown(url) == "REDIS_URL"


@pytest.mark.parametrize("url", ["redis://me:ge%40heim@h/1", "rediss://:ge%40heim@h", "unix://:ge%40heim@/s?db=1"])
def test_the_worker_gets_the_password_and_never_prints_it(url):
    broker = create_celery(Settings(REDIS_URL=url)).connection()  # type: ignore[call-arg]
    assert broker.password == "ge@heim" or ":ge%40heim@" in str(broker.hostname)
    for printed in (broker.as_uri(), repr(broker)):
        assert "heim" not in printed


def test_what_sentinels_are_told_and_what_redis_is():
    address = read(
        "sentinels://me:ge%40heim@a:1,b/mymaster/2?sentinel_password=x%26y&ssl_ca_certs=/ca&socket_timeout=3"
    )

    assert address.sentinels == (("a", 1), ("b", 26379))
    assert address.service == "mymaster"
    assert address.is_tls
    assert address.options == {
        "username": "me",
        "password": "ge@heim",
        "db": 2,
        "ssl_ca_certs": "/ca",
        "socket_timeout": 3.0,
    }
    assert address.sentinel_options == {"password": "x&y", "ssl": True, "ssl_ca_certs": "/ca"}
    assert "heim" not in repr(address)
    assert "x&y" not in repr(address)


def test_an_empty_variable_is_one_that_is_not_set():
    assert Settings(REDIS_URL=" ").redis_url == DEFAULT_REDIS_URL  # type: ignore[call-arg]


def test_a_certificate_that_cannot_be_read_stops_the_start_by_its_name(tmp_path):
    (tmp_path / "ca.pem").touch()
    url = f"rediss://:secret@host/0?ssl_ca_certs={tmp_path}/ca.pem"
    assert Settings(REDIS_URL=url).redis_url == url  # type: ignore[call-arg]
    for wrong in (f"{url}&ssl_certfile={tmp_path}/none", f"sentinels://host/mine?ssl_certfile={tmp_path}"):
        with pytest.raises(ValidationError, match="the file of ssl_certfile cannot be read: ") as refused:
            Settings(REDIS_URL=wrong)  # type: ignore[call-arg]
        assert "secret" not in refused.value.errors()[0]["msg"]
