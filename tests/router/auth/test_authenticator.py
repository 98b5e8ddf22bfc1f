"""A key is found in whichever header clients send it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from redis.asyncio import Redis
from starlette.datastructures import Headers

from router.auth.admin import create_key, create_owner, delete_owner, revoke_key, rotate_key, set_owner
from router.auth.authenticator import Authenticator
from router.auth.caller import LOCAL, SCOPES, Caller
from router.auth.key_text import digest_of, new_key
from router.auth.records import configured_owner
from router.auth.store import OwnerStore
from router.auth.tokens import TokenVerifier
from router.errors import AuthenticationError, QueueUnavailableError
from router.limits.limits import Limits
from router.settings import Settings
from tests.support.clock import Clock
from tests.support.tokens import NOW, SECRET, secret, sign

KEYS = [SecretStr("alice"), SecretStr("bob")]
ALICE = configured_owner(digest_of("alice"))


async def identify(headers: Mapping[str, str], keys: list[SecretStr]) -> Caller:
    """Without redis: nothing of this needs one."""
    async with Redis(host="127.0.0.1", port=1) as nothing:
        return await Authenticator(keys, OwnerStore(nothing), nothing, is_insecure=not keys).identify(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "bearer  alice "},
        {"api-key": "alice"},
        {"x-api-key": " alice"},
        {"authorization": "Bearer", "api-key": "alice"},
        {"authorization": "Basic abc", "x-api-key": "alice"},
        {"authorization": "Bearer alice", "api-key": "alice", "x-api-key": " alice "},
        {"authorization": "Bearer alice", "x-api-key": ""},
    ],
    ids=str,
)
async def test_all_headers_of_clients_lead_to_the_same_owner(headers: dict[str, str]) -> None:
    assert (await identify(headers, KEYS)).owner == ALICE
    assert await identify(headers, []) == LOCAL


@pytest.mark.parametrize(
    "headers",
    [{}, {"api-key": ""}, {"authorization": "alice"}, {"x-api-key": "Alice"}, {"api-key": "ÿé"}, {"authorization": ""}],
    ids=str,
)
async def test_no_known_key_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(AuthenticationError):
        await identify(headers, KEYS)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer alice", "x-api-key": "bob"},
        {"authorization": "Bearer bob", "api-key": "alice"},
        {"api-key": "alice", "x-api-key": "bob"},
        {"authorization": "Bearer unused", "api-key": "alice"},
        {"authorization": "Bearer alice", "x-api-key": "Alice"},
        Headers(raw=[(b"authorization", b"Bearer alice"), (b"authorization", b"Bearer bob")]),
        Headers(raw=[(b"x-api-key", b"alice"), (b"x-api-key", b"bob")]),
    ],
    ids=str,
)
async def test_keys_that_differ_are_refused_by_name_and_not_repeated(headers: Mapping[str, str]) -> None:
    with pytest.raises(AuthenticationError, match="differ") as refused:
        await identify(headers, KEYS)
    assert refused.value.code == "conflicting_api_keys"
    assert "alice" not in refused.value.message
    # Without keys nobody is told apart, and SDKs send one made up.
    assert await identify(headers, []) == LOCAL


@pytest.mark.parametrize("key", ["schlüssel", "钥匙", "two words", "tab\tkey", "a\u00a0b", "\x7f"])
@pytest.mark.parametrize("name", ["api_keys", "glm_api_key"])
def test_keys_that_no_client_can_send_stop_the_start_and_are_not_repeated(name: str, key: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(**{name: f"good,{key}" if name == "api_keys" else key})  # type: ignore[arg-type]
    assert name in str(refused.value)
    assert key not in str(refused.value)


@pytest.fixture
def store(redis: Redis) -> OwnerStore:
    return OwnerStore(redis)


@pytest.fixture
async def listener(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as listener:
        yield listener


@pytest.fixture
async def door(store: OwnerStore, listener: Redis, clock: Clock) -> AsyncIterator[Authenticator]:
    """An authenticator on loopback without configured keys, begun before there was any owner."""
    door = Authenticator([], store, listener, clock=clock)
    await door.start()
    yield door
    await door.aclose()


async def make_key(store: OwnerStore, clock: Clock, name: str = "alice", **more: Any) -> str:
    if name not in {owner.name for owner in (await store.load()).owners.values()}:
        await store.change(lambda all_: create_owner(all_, clock.now, name))
    return (await store.change(lambda all_: create_key(all_, clock.now, name, **more))).text


async def ask(door: Authenticator, key: str = "") -> Caller:
    return await door.identify({"authorization": f"Bearer {key}"} if key else {})


async def refusal(door: Authenticator, key: str = "") -> str:
    with pytest.raises(AuthenticationError) as refused:
        await ask(door, key)
    assert not key or key not in refused.value.message
    return refused.value.code


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(300):
        while not is_true():  # noqa: ASYNC110, since redis is asked meanwhile
            await asyncio.sleep(0.005)


async def test_the_first_owner_closes_the_door_and_the_last_one_opens_it(
    door: Authenticator, store: OwnerStore, clock: Clock
) -> None:
    assert await ask(door) == await ask(door, "made-up") == LOCAL

    key = await make_key(store, clock)
    await until(lambda: door.needs_keys is True)

    assert await refusal(door) == await refusal(door, "made-up") == "invalid_api_key"
    assert (await ask(door, key)).key_id == key[:14]

    # A door whose last key has ended stays closed: who revokes a key does not mean to let everybody in.
    await store.change(lambda all_: revoke_key(all_, clock.now, key))
    await door.refresh()
    assert await refusal(door) == await refusal(door, key) == "invalid_api_key"

    await store.change(lambda all_: delete_owner(all_, clock.now, "alice"))
    await door.refresh()
    assert await ask(door) == LOCAL


async def test_redis_that_lost_everything_does_not_open_the_door(
    door: Authenticator, store: OwnerStore, clock: Clock
) -> None:
    key = await make_key(store, clock)
    await door.refresh()
    await store.redis.flushdb()
    await door.refresh()
    assert await refusal(door) == await refusal(door, key) == "invalid_api_key"


async def test_a_key_may_do_what_its_owner_may_and_no_more(
    door: Authenticator, store: OwnerStore, clock: Clock
) -> None:
    key, narrow = await make_key(store, clock), await make_key(store, clock, scopes=frozenset({"ask", "jobs"}))
    limits, wide = Limits(tokens_per_minute=5), frozenset({"ask", "files"})
    await store.change(lambda all_: set_owner(all_, "alice", limits=limits, scopes=wide, retention_s=86400))
    await door.refresh()

    caller = await ask(door, key)
    assert (caller.scopes, caller.limits, caller.retention_s) == ({"ask", "files"}, limits, 86400)
    assert (await ask(door, narrow)).scopes == {"ask"}
    assert (await ask(door, narrow)).owner == caller.owner


async def test_a_change_is_heard_of(door: Authenticator, store: OwnerStore, clock: Clock) -> None:
    key = await make_key(store, clock)
    await until(lambda: digest_of(key) in door._table)

    await store.change(lambda all_: revoke_key(all_, clock.now, key))
    await until(lambda: digest_of(key) not in door._table)

    assert await refusal(door, key) == "invalid_api_key"


async def test_a_key_of_a_moment_ago_is_found_though_nobody_said_so(
    store: OwnerStore, listener: Redis, clock: Clock
) -> None:
    door = Authenticator([SecretStr("configured")], store, listener, clock=clock)  # it does not listen
    key = await make_key(store, clock)
    assert (await ask(door, key)).key_id == key[:14]


async def test_a_key_expires_by_the_clock(door: Authenticator, store: OwnerStore, clock: Clock) -> None:
    key = await make_key(store, clock, lives_s=60)
    await door.refresh()
    clock.now += 59
    assert (await ask(door, key)).key_id
    clock.now += 1
    assert await refusal(door, key) == "expired_api_key"


async def test_rotated_both_keys_are_good_for_a_while_and_stand_for_one_owner(
    door: Authenticator, store: OwnerStore, clock: Clock
) -> None:
    old = await make_key(store, clock)
    new = (await store.change(lambda all_: rotate_key(all_, clock.now, old, overlap_s=100))).text
    await door.refresh()
    assert (await ask(door, old)).owner == (await ask(door, new)).owner
    clock.now += 100
    assert await refusal(door, old) == "expired_api_key"
    assert (await ask(door, new)).key_id == new[:14]


async def test_a_configured_key_is_adopted_with_its_owner_and_revoked(
    store: OwnerStore, listener: Redis, clock: Clock
) -> None:
    door = Authenticator([SecretStr("alice-1234")], store, listener, clock=clock)
    owner = (await ask(door, "alice-1234")).owner
    assert (await ask(door, "alice-1234")).scopes == SCOPES

    adopt = {"adopt": owner, "configured": ["bob-5678", "alice-1234"]}
    await store.change(lambda all_: create_owner(all_, clock.now, "alice", **adopt))
    await door.refresh()
    known = await ask(door, "alice-1234")
    assert (known.owner, known.scopes) == (owner, SCOPES - {"admin"})

    new = (await store.change(lambda all_: rotate_key(all_, clock.now, known.key_id, overlap_s=0))).text
    await door.refresh()
    assert await refusal(door, "alice-1234") == "invalid_api_key"
    assert (await ask(door, new)).owner == owner

    # Nor is it good again when its owner is gone.
    await store.change(lambda all_: delete_owner(all_, clock.now, "alice"))
    await door.refresh()
    assert await refusal(door, "alice-1234") == "invalid_api_key"


async def test_while_redis_is_away_known_keys_are_good_and_others_unknown(
    store: OwnerStore, clock: Clock, monkeypatch: pytest.MonkeyPatch, listener: Redis
) -> None:
    door = Authenticator([SecretStr("configured")], store, listener, clock=clock)
    key = await make_key(store, clock)
    await door.refresh()
    async with Redis(host="127.0.0.1", port=1) as nothing:
        monkeypatch.setattr(store, "redis", nothing)
        monkeypatch.setattr(door._live, "_checked_at", float("-inf"))

        assert (await ask(door, key)).key_id
        assert (await ask(door, "configured")).key_id
        with pytest.raises(QueueUnavailableError) as refused:
            await ask(door, new_key())
        assert refused.value.retry_after_s
        # What cannot be a key of redis is wrong whatever redis says.
        assert await refusal(door, key[:-1]) == await refusal(door, "made-up") == await refusal(door)


@pytest.mark.parametrize(("is_insecure", "is_answered"), [(False, False), (True, True)])
async def test_redis_away_since_the_start_leaves_open_whether_keys_are_needed(
    is_insecure: bool, is_answered: bool
) -> None:
    async with Redis(host="127.0.0.1", port=1) as nothing:
        door = Authenticator([], OwnerStore(nothing), nothing, is_insecure=is_insecure)
        await door.start()
        try:
            assert await ask(door) == LOCAL
            assert is_answered
        except QueueUnavailableError:
            assert not is_answered
        finally:
            await door.aclose()


async def test_elsewhere_than_on_loopback_nobody_gets_in_without_a_key(store: OwnerStore, listener: Redis) -> None:
    door = Authenticator([], store, listener, is_open=False)
    assert await refusal(door) == await refusal(door, "made-up") == "invalid_api_key"
    await door.refresh()
    assert await refusal(door) == await refusal(door, new_key()) == "invalid_api_key"


async def num_gets(store: OwnerStore) -> int:
    return int((await store.redis.info("commandstats"))["cmdstat_get"]["calls"])


async def test_no_command_of_redis_is_sent_for_a_known_key_and_one_a_second_for_unknown_ones(
    store: OwnerStore, listener: Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await make_key(store, clock)
    door = Authenticator([], store, listener, clock=clock)  # it does not listen, so nothing else asks redis
    seconds = Clock()
    monkeypatch.setattr(door._live, "_clock", seconds)
    await door.refresh()
    before = await num_gets(store)
    for _ in range(50):
        await ask(door, key)
    assert await num_gets(store) == before

    for _ in range(4):
        seconds.now += 0.6
        for _ in range(10):
            await refusal(door, new_key())
    assert await num_gets(store) == before + 2


async def test_the_last_use_is_written_down_to_the_minute(store: OwnerStore, listener: Redis, clock: Clock) -> None:
    key = await make_key(store, clock)
    door = Authenticator([], store, listener, clock=clock)
    await door.start()
    first = clock.now
    for clock.now in (first, first + 30, first + 59):
        await ask(door, key)
    await door.aclose()
    assert (await store.load()).used == {key[:14]: first}

    clock.now = first + 61
    await ask(door, key)
    await door.aclose()
    assert (await store.load()).used == {key[:14]: first + 61}


async def test_a_tokens_owner_may_have_a_record_which_says_how_much_and_takes_scopes_away(
    store: OwnerStore, listener: Redis, clock: Clock
) -> None:
    tokens = TokenVerifier(secrets=[SECRET], default_scopes=SCOPES, clock=lambda: NOW)
    door = Authenticator([], store, listener, tokens=tokens, clock=clock)
    token = sign({"alg": "HS256"}, {"sub": "alice", "exp": NOW + 600}, secret())
    # Tokens alone close the door, whatever redis has.
    assert door.needs_keys
    await door.refresh()
    assert door.needs_keys
    assert await refusal(door) == await refusal(door, "made-up") == "invalid_api_key"
    assert await refusal(door, "a.b.c") == "invalid_token"
    stranger = await ask(door, token)
    assert (stranger.scopes, stranger.limits, stranger.key_id[:4]) == (SCOPES, Limits(), "jwt_")

    limits = Limits(requests_per_minute=7)
    await store.change(
        lambda all_: create_owner(
            all_, clock.now, "alice", adopt=stranger.owner, limits=limits, scopes=frozenset({"ask"}), retention_s=60
        )
    )
    await door.refresh()

    assert await ask(door, token) == Caller(
        stranger.owner, frozenset({"ask"}), stranger.key_id, limits, 60, stranger.user
    )
    key = await make_key(store, clock)
    await door.refresh()
    assert (await ask(door, key)).owner == stranger.owner
