"""Owners and keys in redis: what two operators do at once is done twice, and said to everybody."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from router.auth.admin import create_key, create_owner
from router.auth.records import Directory
from router.auth.store import CHANNEL, OwnerStore, Row

NOW = 1_000_000.0


async def test_nothing_was_ever_stored(redis: Redis) -> None:
    assert await OwnerStore(redis).load() == Directory()


async def test_changes_at_once_are_all_made_and_each_has_another_version(redis: Redis, redis_url: str) -> None:
    store = OwnerStore(redis)
    await store.change(lambda all_: create_owner(all_, NOW, "alice"))

    async def create() -> str:
        async with Redis.from_url(redis_url) as mine:
            return (await OwnerStore(mine).change(lambda all_: create_key(all_, NOW, "alice"))).key.id

    made = await asyncio.gather(*(create() for _ in range(8)))

    directory = await store.load()
    assert {key.id for key in directory.keys.values()} == set(made)
    assert await store.version() == directory.version != ""


async def test_a_change_is_told_and_one_that_is_refused_is_not_made(redis: Redis, redis_url: str) -> None:
    store = OwnerStore(redis)
    async with Redis.from_url(redis_url) as listener, listener.pubsub(ignore_subscribe_messages=True) as channel:
        await channel.subscribe(CHANNEL)
        await store.change(lambda all_: create_owner(all_, NOW, "alice"))
        heard = None
        async with asyncio.timeout(300):
            while heard is None:
                heard = await channel.get_message(timeout=1)
    assert heard["data"].decode() == await store.version()


async def test_an_empty_value_deletes_a_field(redis: Redis) -> None:
    store = OwnerStore(redis)
    owner = await store.change(lambda all_: create_owner(all_, NOW, "alice"))
    await store.change(lambda _: ([Row("owners", owner.id)], None))
    assert (await store.load()).owners == {}


async def test_no_text_of_a_key_is_in_redis(redis: Redis) -> None:
    store = OwnerStore(redis)
    await store.change(lambda all_: create_owner(all_, NOW, "alice"))
    made = await store.change(lambda all_: create_key(all_, NOW, "alice"))
    stored = b"".join((await redis.hgetall("glowl:auth:keys")).values())
    assert made.key.id.encode() in stored
    assert made.text[14:].encode() not in stored
