"""The batch record's state machine, against a real redis and a clock of the test's own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass

import orjson
import pytest
from redis.asyncio import Redis

from router.batches.files import FileStore
from router.batches.records import CHAT, MAX_OPEN, WINDOW_S, Admitted, Batch, BatchSpec, line_job_id, new_id
from router.batches.store import BatchStore, LeaseLostError
from router.lua.constants import CHUNK_BYTES
from router.redis import PREFIX
from router.webhooks.store import WebhookStore
from tests.support.clock import Clock


@dataclass
class Stores:
    batches: BatchStore
    files: FileStore
    clock: Clock

    async def begin(self, total: int = 3) -> tuple[BatchSpec, int]:
        """Create a batch and bring it to its first line."""
        spec = make_spec()
        assert await self.batches.create(spec)
        ((batch_id, epoch),) = await self.batches.claim(10)
        assert batch_id == spec.id
        assert await self.batches.start(spec.id, epoch, total)
        return spec, epoch

    async def get(self, spec: BatchSpec) -> Batch:
        batch = await self.batches.get(spec.id)
        assert batch is not None
        return batch

    async def read(self, file_id: str | None) -> bytes:
        assert file_id is not None
        file = await self.files.get("local", file_id)
        assert file is not None
        return b"".join([piece async for piece in self.files.stream(file.id, file.num_bytes)])


@pytest.fixture
async def stores(redis_url: str) -> AsyncIterator[Stores]:
    redis, clock = Redis.from_url(redis_url), Clock()
    limits = {"max_file_bytes": 10 * CHUNK_BYTES, "max_total_bytes": 100 * CHUNK_BYTES, "ttl_s": 3600}
    yield Stores(BatchStore(redis, lease_s=5, clock=clock), FileStore(redis, **limits, clock=clock), clock)
    await redis.aclose()


def make_spec(owner: str = "local") -> BatchSpec:
    return BatchSpec(
        id=new_id("batch_"),
        owner=owner,
        endpoint=CHAT,
        input_file_id="file-1",
        output_ttl_s=3600,
        metadata={"a": "b"},
        webhook_url="https://hooks.example/",
    )


def line(number: int, name: str = "", attempt: int = 0) -> Admitted:
    return Admitted(number, 10 * (number - 1), 10, name or f"q{number}", attempt)


async def test_a_created_batch_reads_back_as_it_was_written(stores: Stores) -> None:
    spec = make_spec()
    await stores.batches.create(spec)

    batch = await stores.get(spec)

    assert batch.spec == spec
    assert (batch.status, batch.total, batch.errors, batch.output_file_id) == ("validating", 0, (), None)
    assert batch.times == {"created": 1_000_000.0, "expires": 1_000_000.0 + WINDOW_S}


async def test_only_one_run_has_a_batch_until_it_is_silent_for_too_long(stores: Stores) -> None:
    spec, epoch = await stores.begin()
    assert await stores.batches.claim(10) == []

    # When the run renews its lease, nobody else gets the batch; when it stops, somebody does
    stores.clock.now += 4
    assert await stores.batches.renew(spec.id, epoch) is None
    stores.clock.now += 4
    assert await stores.batches.claim(10) == []
    stores.clock.now += 2
    assert await stores.batches.claim(10) == [(spec.id, epoch + 1)]

    # Then the first run can write nothing more
    for write in (
        stores.batches.renew(spec.id, epoch),
        stores.batches.admit(spec.id, epoch, line(1), 10),
        stores.batches.skip(spec.id, epoch, 1, 10, [b"x\n"]),
        stores.batches.record(spec.id, epoch, 1, b"x\n", is_error=False, usage={}),
        stores.batches.finalize(spec.id, epoch),
        stores.batches.finish(spec.id, epoch),
        stores.batches.fail(spec.id, epoch, []),
    ):
        with pytest.raises(LeaseLostError):
            await write
    assert (await stores.get(spec)).line == 0


async def test_a_batch_that_is_given_back_is_taken_up_at_once(stores: Stores) -> None:
    spec, epoch = await stores.begin()
    await stores.batches.give_back(spec.id, epoch)

    assert await stores.batches.claim(10) == [(spec.id, epoch + 1)]


async def test_a_line_is_in_flight_until_it_is_in_the_output_once(stores: Stores) -> None:
    spec, epoch = await stores.begin(2)
    assert await stores.batches.admit(spec.id, epoch, line(1), 10) == "ok"
    assert await stores.batches.admitted(spec.id) == [line(1)]
    assert (await stores.get(spec)).offset == 10

    # When another run takes the batch up and ends the line
    stores.clock.now += 6
    ((_, epoch),) = await stores.batches.claim(10)
    assert await stores.batches.admitted(spec.id) == [line(1)]
    await stores.batches.record(spec.id, epoch, 1, b"one\n", is_error=False, usage={"input_tokens": 3})

    # Then it cannot be ended again
    with pytest.raises(LeaseLostError):
        await stores.batches.record(spec.id, epoch, 1, b"again\n", is_error=False, usage={"input_tokens": 3})
    await stores.batches.skip(spec.id, epoch, 2, 20, [b"bad\n"])
    assert await stores.batches.finalize(spec.id, epoch)
    await stores.batches.finish(spec.id, epoch)
    batch = await stores.get(spec)
    assert (batch.status, batch.completed, batch.failed, batch.usage) == ("completed", 1, 1, {"input_tokens": 3})
    assert await stores.read(batch.output_file_id) == b"one\n"
    assert await stores.read(batch.error_file_id) == b"bad\n"


async def test_the_same_command_sent_twice_changes_nothing_more(stores: Stores) -> None:
    # A client whose connection breaks does not know whether its command arrived, and sends it again
    spec, epoch = await stores.begin(2)
    for _ in range(2):
        assert await stores.batches.admit(spec.id, epoch, line(1), 10) == "ok"
        await stores.batches.skip(spec.id, epoch, 2, 20, [b"bad\n"])

    batch = await stores.get(spec)
    assert (batch.line, batch.failed) == (2, 1)
    assert await stores.batches.admitted(spec.id) == [line(1)]


async def test_a_name_is_taken_by_the_first_line_that_has_it(stores: Stores) -> None:
    spec, epoch = await stores.begin(2)
    await stores.batches.admit(spec.id, epoch, line(1, "same"), 10)

    assert await stores.batches.admit(spec.id, epoch, line(2, "same"), 20) == "duplicate"
    assert await stores.batches.admitted(spec.id) == [line(1, "same")]


async def test_a_batch_that_a_newer_release_runs_is_read_without_what_it_added(stores: Stores) -> None:
    # Given records with a field that this release does not know
    @dataclass(frozen=True, slots=True)
    class NewerSpec(BatchSpec):
        colour: str = "red"

    @dataclass(frozen=True, slots=True)
    class NewerLine(Admitted):
        colour: str = "red"

    spec = make_spec()
    assert await stores.batches.create(NewerSpec(**asdict(spec)))
    ((_, epoch),) = await stores.batches.claim(10)
    assert await stores.batches.start(spec.id, epoch, 1)
    assert await stores.batches.admit(spec.id, epoch, NewerLine(**asdict(line(1))), 10) == "ok"

    assert (await stores.get(spec)).spec == spec
    assert await stores.batches.admitted(spec.id) == [line(1)]


async def test_a_batch_does_not_end_while_a_line_is_in_flight(stores: Stores) -> None:
    spec, epoch = await stores.begin(1)
    await stores.batches.admit(spec.id, epoch, line(1), 10)

    with pytest.raises(LeaseLostError):
        await stores.batches.finish(spec.id, epoch)
    assert not (await stores.get(spec)).has_ended


async def test_a_cancelled_batch_takes_no_more_lines_and_ends_cancelled(stores: Stores) -> None:
    spec, epoch = await stores.begin(3)
    await stores.batches.admit(spec.id, epoch, line(1), 10)
    assert await stores.batches.cancel("somebody else", spec.id) is None
    cancelled = await stores.batches.cancel("local", spec.id)

    assert cancelled is not None
    assert cancelled.status == "cancelling"
    assert await stores.batches.renew(spec.id, epoch) == "cancelled"
    assert await stores.batches.admit(spec.id, epoch, line(2), 20) == "closing"
    await stores.batches.record(spec.id, epoch, 1, b"one\n", is_error=False, usage={})
    assert not await stores.batches.finalize(spec.id, epoch)
    await stores.batches.finish(spec.id, epoch)
    batch = await stores.get(spec)
    assert (batch.status, batch.completed) == ("cancelled", 1)
    # And what has ended stays as it is
    again = await stores.batches.cancel("local", spec.id)
    assert again == batch
    assert await stores.batches.claim(10) == []


async def test_a_batch_whose_time_is_over_ends_expired(stores: Stores) -> None:
    spec, epoch = await stores.begin(1)
    stores.clock.now += WINDOW_S

    assert await stores.batches.renew(spec.id, epoch) == "expired"
    assert (await stores.get(spec)).status == "finalizing"
    await stores.batches.finish(spec.id, epoch)
    batch = await stores.get(spec)
    assert (batch.status, batch.times["expired"]) == ("expired", stores.clock.now)


async def test_a_cancelled_batch_is_not_begun(stores: Stores) -> None:
    spec = make_spec()
    await stores.batches.create(spec)
    ((_, epoch),) = await stores.batches.claim(10)
    await stores.batches.cancel("local", spec.id)

    assert not await stores.batches.start(spec.id, epoch, 5)
    await stores.batches.finish(spec.id, epoch)
    assert (await stores.get(spec)).status == "cancelled"


async def test_the_output_is_whole_however_it_was_put_together(stores: Stores) -> None:
    # Given entries that do not fit the pieces a file is kept in
    entries = [bytes([65 + number]) * (CHUNK_BYTES // 2 + 7) + b"\n" for number in range(6)]
    entries.append(b"z" * (2 * CHUNK_BYTES) + b"\n")
    spec, epoch = await stores.begin(len(entries))
    for number, entry in enumerate(entries, 1):
        await stores.batches.admit(spec.id, epoch, line(number), 10 * number)
        await stores.batches.record(spec.id, epoch, number, entry, is_error=False, usage={})
    await stores.batches.finish(spec.id, epoch)

    batch = await stores.get(spec)
    assert await stores.read(batch.output_file_id) == b"".join(entries)
    assert batch.error_file_id is None


async def test_a_deleted_output_leaves_no_bytes_and_everything_of_a_batch_has_an_end(stores: Stores) -> None:
    spec, epoch = await stores.begin(2)
    await stores.batches.admit(spec.id, epoch, line(1), 10)
    await stores.batches.record(spec.id, epoch, 1, b"x" * 3 * CHUNK_BYTES, is_error=False, usage={})
    await stores.batches.skip(spec.id, epoch, 2, 20, [b"bad\n"])
    await stores.batches.finish(spec.id, epoch)
    batch = await stores.get(spec)
    redis = stores.batches.redis

    assert await stores.files.delete("local", str(batch.output_file_id))
    kept = {key.decode() for key in await redis.keys(f"{PREFIX}*")}
    assert not any(str(batch.output_file_id) in key for key in kept)
    # Only the two lists of the owner's ids stay, and what is to be delivered
    immortal = {key for key in kept if await redis.ttl(key) < 0}
    assert {key for key in immortal if "deliver" not in key} == {f"{PREFIX}files:local", f"{PREFIX}batches:local"}


async def test_the_end_of_a_batch_is_told_in_the_same_step(stores: Stores) -> None:
    spec, epoch = await stores.begin(1)
    await stores.batches.finish(spec.id, epoch)

    webhooks = WebhookStore(stores.batches.redis, clock=stores.clock)
    claim = await webhooks.take_next(lease_s=5)
    assert claim is not None
    event = orjson.loads(claim.body)
    assert (claim.url, event["type"], event["data"]) == (
        "https://hooks.example/",
        "batch.completed",
        {"id": spec.id},
    )


async def test_an_owner_has_so_many_batches_under_way_and_no_more(stores: Stores) -> None:
    specs = [make_spec() for _ in range(MAX_OPEN + 1)]
    made = [await stores.batches.create(spec) for spec in specs]
    assert [batch.spec if batch else None for batch in made] == [*specs[:MAX_OPEN], None]
    assert await stores.batches.create(make_spec("somebody else"))

    # When one ends, there is room again
    await stores.batches.cancel("local", specs[0].id)
    epochs = dict(await stores.batches.claim(1000))
    await stores.batches.finish(specs[0].id, epochs[specs[0].id])
    assert await stores.batches.create(specs[-1])


async def test_lists_go_on_from_page_to_page_and_forget_what_has_expired(stores: Stores) -> None:
    specs = sorted((make_spec() for _ in range(5)), key=lambda spec: spec.id, reverse=True)
    for spec in specs:
        await stores.batches.create(spec)
    await stores.batches.redis.delete(f"{PREFIX}batch:{specs[1].id}")

    first, has_more = await stores.batches.list_batches("local", limit=2)
    rest, is_last = await stores.batches.list_batches("local", after=first[-1].spec.id, limit=2)

    assert [batch.spec.id for batch in (*first, *rest)] == [specs[i].id for i in (0, 2, 3, 4)]
    assert (has_more, is_last) == (True, False)


def test_a_lines_job_has_one_id_per_attempt() -> None:
    first = line_job_id("batch_1", line(1))

    assert first == line_job_id("batch_1", line(1, "renamed"))
    others = {
        line_job_id("batch_1", line(1, attempt=1)),
        line_job_id("batch_1", line(2)),
        line_job_id("batch_2", line(1)),
    }
    assert len(others | {first}) == 4
    assert json.loads(line(1).to_json())["attempt"] == 0
