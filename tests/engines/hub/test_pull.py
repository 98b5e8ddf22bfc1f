"""A model from an emulated hub: each thing that can go wrong, and what is here afterwards."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

from engines.hub import pull as pulling
from engines.hub.names import ModelName, Place
from engines.hub.progress import Progress, Watcher
from engines.hub.pull import MAX_FRUITLESS, pull
from engines.hub.snapshots import PART, find_snapshot, lock_path, model_dir, sole
from engines.hub.words import HubError
from tests.support.hub_server import COMMIT, TOKEN, HubServer, serving_hub

NAME = ModelName("org/model")
SHARD = "model-00001-of-00002.safetensors"
OTHER_SHARD = "model-00002-of-00002.safetensors"


class Told:
    """What a download said, and how long it waited."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.codes: list[str] = []
        self.progress: list[Progress] = []
        self.waits: list[float] = []
        self.watcher = Watcher(self.progress.append, self._note, every_s=0.0)

    def _note(self, note) -> None:
        self.notes.append(str(note))
        self.codes.append(note.code)

    async def sleep(self, delay_s: float) -> None:
        self.waits.append(delay_s)
        await asyncio.sleep(0)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def hub() -> AsyncIterator[HubServer]:
    async with serving_hub() as server:
        yield server


@pytest.fixture
def place(hub: HubServer, tmp_path: Path) -> Place:
    return Place(hub.url, tmp_path / "hub", "", False, "HF_ENDPOINT", "HF_TOKEN")


@pytest.fixture
def fetch(told: Told, place: Place):
    async def fetch(name: ModelName = NAME, place: Place = place, **options: bool):
        return await pull(name, told.watcher, place=place, sleep=told.sleep, **options)

    return fetch


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


async def test_a_model_is_here_whole_and_the_hub_is_not_asked_again(hub, place, fetch, told):
    # Given nothing
    assert find_snapshot(NAME, place) is None
    # When it is pulled
    snapshot = await fetch()
    # Then all that engines need is here, under the commit, and nothing else
    assert snapshot.name == NAME.at(COMMIT)
    assert contents(snapshot.folder) == {
        file: data for file, data in hub.files.items() if "/" not in file and file != "README.md"
    }
    last = told.progress[-1]
    assert last.done_bytes == last.total_bytes == sum(len(data) for data in contents(snapshot.folder).values())
    # And the next start needs no hub, and verifies nothing again
    await hub.stop()
    num_told = len(told.notes)
    assert (await fetch()).folder == snapshot.folder
    assert told.notes[num_told:] == []


async def test_what_was_pulled_is_what_the_hubs_client_finds_and_the_other_way_round(hub, place, fetch, tmp_path):
    snapshot = await fetch()
    found = await asyncio.to_thread(
        snapshot_download, "org/model", cache_dir=place.cache, endpoint=hub.url, local_files_only=True
    )
    assert Path(found) == snapshot.folder
    # And what it downloads is found here, verified once, and not downloaded again
    other = replace(place, cache=tmp_path / "other")
    theirs = await asyncio.to_thread(
        snapshot_download, "org/model", cache_dir=other.cache, endpoint=hub.url, token=False
    )
    num_requests = len(hub.requests)
    assert (await fetch(place=other)).folder == Path(theirs)
    assert len(hub.requests) == num_requests


@pytest.mark.parametrize("num_cuts", [1, 3])
async def test_a_connection_cut_in_mid_shard_is_gone_on_with_where_it_stopped(hub, fetch, told, num_cuts):
    hub.fails(SHARD, *["cut 6000"] * num_cuts)
    snapshot = await fetch()
    assert contents(snapshot.folder)[SHARD] == hub.files[SHARD]
    assert hub.fetched(SHARD) == ["whole", *(f"bytes={6000 * number}-" for number in range(1, num_cuts + 1))]
    # Each cut brought something, so the wait begins anew
    assert told.waits == [1.0] * num_cuts
    assert "resumed" in told.codes
    assert told.progress[-1].done_bytes == told.progress[-1].total_bytes


async def test_what_an_ended_process_left_of_a_shard_is_gone_on_with(hub, place, fetch):
    # Given the first bytes of a shard, left by a process that was killed
    part = model_dir(NAME, place) / "blobs" / f"{hub.sha256(SHARD)}{PART}"
    part.parent.mkdir(parents=True)
    part.write_bytes(hub.files[SHARD][:15_000])
    # When the model is pulled
    snapshot = await fetch()
    # Then only the rest is
    assert hub.fetched(SHARD) == ["bytes=15000-"]
    assert contents(snapshot.folder)[SHARD] == hub.files[SHARD]
    assert list(part.parent.glob("*.incomplete")) == []


async def test_a_hub_that_cannot_resume_is_said_and_the_shard_begins_anew(hub, fetch, told):
    hub.fails(SHARD, "cut 6000", "whole")
    snapshot = await fetch()
    assert contents(snapshot.folder)[SHARD] == hub.files[SHARD]
    assert "restarted" in told.codes
    assert told.progress[-1].done_bytes == told.progress[-1].total_bytes


async def test_a_part_that_is_longer_than_the_file_begins_anew(hub, place, fetch):
    part = model_dir(NAME, place) / "blobs" / f"{hub.sha256(SHARD)}{PART}"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 30_000)
    assert contents((await fetch()).folder)[SHARD] == hub.files[SHARD]


async def test_a_shard_that_always_breaks_off_ends_with_what_arrived_kept(hub, place, fetch, told):
    hub.fails(SHARD, "cut 6000", *["cut 0"] * MAX_FRUITLESS)
    with pytest.raises(HubError, match=hub.url) as raised:
        await fetch()
    assert raised.value.waiting_helps
    # Waited longer and longer, at most a minute
    assert told.waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert max(told.waits) <= 60.0
    # And it is not present, but nothing is lost
    assert find_snapshot(NAME, place) is None
    assert (model_dir(NAME, place) / "blobs" / f"{hub.sha256(SHARD)}{PART}").stat().st_size == 6000
    hub._faults.clear()
    await fetch()
    assert hub.fetched(SHARD)[-1] == "bytes=6000-"


async def test_other_contents_than_the_hub_names_are_fetched_once_more(hub, fetch, told):
    hub.fails(SHARD, "wrong")
    snapshot = await fetch()
    assert contents(snapshot.folder)[SHARD] == hub.files[SHARD]
    assert told.codes == ["again"]


async def test_contents_that_are_wrong_twice_end_it(hub, place, fetch):
    hub.claims(SHARD, "0" * 64)
    with pytest.raises(HubError, match="other contents") as raised:
        await fetch()
    assert not raised.value.waiting_helps
    assert find_snapshot(NAME, place) is None
    assert not list(model_dir(NAME, place).glob(f"blobs/{'0' * 64}*"))


async def test_a_missing_shard_is_named_before_any_other_is_downloaded(hub, fetch):
    del hub.files[OTHER_SHARD]
    with pytest.raises(HubError, match=f"there is no {OTHER_SHARD}") as raised:
        await fetch()
    assert not raised.value.waiting_helps
    assert hub.fetched(SHARD) == []


async def test_a_shard_that_is_listed_and_gone_is_named(hub, fetch):
    hub.fails(SHARD, "gone")
    with pytest.raises(HubError, match=f"there is no {SHARD}") as raised:
        await fetch()
    assert not raised.value.waiting_helps


@pytest.mark.parametrize(
    ("refusal", "token", "helps", "words"),
    [
        ((403, {"X-Error-Code": "GatedRepo"}), "", False, "org/model is gated: accept its terms at http"),
        ((401, {"X-Error-Code": "GatedRepo"}), TOKEN, False, "set HF_TOKEN to a token of that account"),
        ((401, {}), "", False, "there is no org/model at http"),
        ((401, {}), TOKEN, False, "refuses the token in HF_TOKEN"),
        ((404, {"X-Error-Code": "RepoNotFound"}), "", False, "there is no org/model at http"),
        ((403, {}), "", False, "forbids org/model"),
        ((429, {"Retry-After": "7"}), "", True, "answers 429"),
        ((500, {}), "", True, "answers 500"),
        ((503, {}), "", True, "answers 503"),
    ],
)
async def test_a_hub_that_refuses_is_one_line_and_says_whether_waiting_helps(
    hub, place, fetch, told, refusal, token, helps, words
):
    hub.refuse = refusal
    with pytest.raises(HubError) as raised:
        await fetch(place=replace(place, token=token))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.waiting_helps == helps
    assert len(told.waits) == (MAX_FRUITLESS - 1 if helps else 0)
    if refusal[0] == 429:
        assert set(told.waits) == {7.0}


async def test_a_hub_that_is_back_is_asked_again(hub, fetch, told):
    # Given a hub that is overloaded
    hub.refuse = (503, {})

    async def until_it_is_back(delay_s: float) -> None:
        told.waits.append(delay_s)
        if len(told.waits) == 3:
            hub.refuse = None

    told.sleep = until_it_is_back
    # When it is back within the tries, then the model is here
    assert not (await fetch()).missing
    assert told.waits == [1.0, 2.0, 4.0]


async def test_a_limit_in_mid_download_is_waited_for_as_the_hub_says(hub, fetch, told):
    hub.fails(SHARD, "status 429", "status 503")
    await fetch()
    assert told.waits == [7.0, 7.0]


async def test_a_hub_that_is_down_is_one_line(hub, fetch):
    await hub.stop()
    with pytest.raises(HubError, match="cannot be reached") as raised:
        await fetch()
    assert raised.value.waiting_helps
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", [NAME, ModelName("org/model", "modelscope")])
@pytest.mark.parametrize("endpoint", ["hf-mirror.com", "127.0.0.1:80", "ftp://hub", "http://", "http://hub:port"])
async def test_an_endpoint_that_is_no_address_is_not_retried(hub, place, fetch, told, name, endpoint):
    with pytest.raises(HubError, match=rf"HF_ENDPOINT is {endpoint}, which is no address") as raised:
        await fetch(name, place=replace(place, endpoint=endpoint))
    assert not raised.value.waiting_helps
    assert told.waits == []


@pytest.mark.parametrize("token", ["hf_a\nhf_b", "hf_a hf_b", "密钥"])
async def test_a_token_that_cannot_be_sent_is_said_without_showing_it(hub, place, fetch, told, token):
    with pytest.raises(HubError, match=r"HF_TOKEN .* holds characters that no token has") as raised:
        await fetch(place=replace(place, token=token))
    assert token not in str(raised.value)
    assert not raised.value.waiting_helps
    assert hub.requests == told.waits == []


async def test_a_page_in_the_place_of_the_hub_is_said(hub, fetch):
    hub.page = "<html>Please log in to this network</html>"
    with pytest.raises(HubError, match="does not answer as a model hub does") as raised:
        await fetch()
    assert not raised.value.waiting_helps


async def test_an_unknown_revision_is_said_and_a_known_one_is_kept(hub, place, fetch):
    with pytest.raises(HubError, match="no revision v9"):
        await fetch(NAME.at("v9"))
    assert (await fetch(NAME.at("v1"))).name.revision == COMMIT
    found = find_snapshot(NAME.at(COMMIT), place)
    assert found is not None
    assert found.is_verified


async def test_without_a_revision_what_is_here_is_used_though_the_hub_has_more(hub, fetch):
    first = await fetch()
    hub.commit = "b" * 40
    assert (await fetch()).folder == first.folder
    # Until another is asked for by name: then only what differs is downloaded
    sent = hub.sent
    assert (await fetch(NAME.at("b" * 40))).name.revision == "b" * 40
    assert hub.sent == sent


async def test_offline_uses_what_is_here_and_says_what_is_not(hub, place, fetch):
    offline = replace(place, is_offline=True)
    with pytest.raises(HubError, match=r"org/model is not whole in .*HF_HUB_OFFLINE forbids") as raised:
        await fetch(place=offline)
    assert not raised.value.waiting_helps
    assert hub.requests == []
    snapshot = await fetch()
    assert (await fetch(place=offline)).folder == snapshot.folder
    # A shard that is gone is named
    (snapshot.folder / SHARD).unlink()
    with pytest.raises(HubError, match=f"missing: {SHARD}"):
        await fetch(place=offline)


async def test_a_file_that_was_damaged_before_it_was_verified_is_downloaded_again(hub, place, fetch, told):
    # Given what another client has downloaded, and a disk that turned bits
    folder = await asyncio.to_thread(
        snapshot_download, "org/model", cache_dir=place.cache, endpoint=hub.url, token=False
    )
    blob = (Path(folder) / SHARD).resolve()
    blob.write_bytes(b"\0" * len(hub.files[SHARD]))
    # When it is pulled for the first time
    snapshot = await fetch()
    # Then the file is found out, and fetched
    assert "damaged" in told.codes
    assert contents(snapshot.folder)[SHARD] == hub.files[SHARD]
    # And from then on contents are not read again
    told.codes.clear()
    await fetch()
    assert told.codes == []


async def test_parts_that_nobody_goes_on_with_are_removed_but_not_those_in_use(hub, place, fetch, told):
    blobs = model_dir(NAME, place) / "blobs"
    blobs.mkdir(parents=True)
    orphan, used = blobs / f"{'1' * 64}.1a2b3c4d.incomplete", blobs / f"{'2' * 64}.5e6f7a8b.incomplete"
    old = blobs / f"{'3' * 64}{PART}"
    for part in (orphan, used, old):
        part.write_bytes(b"x" * 1000)
    with sole(place.cache / ".locks" / blobs.parent.name / f"{'2' * 64}.lock") as is_held:
        assert is_held
        await fetch()
    assert [part.exists() for part in (orphan, used, old)] == [False, True, False]
    assert "orphans" in told.codes


async def test_a_model_that_another_process_downloads_is_waited_for(hub, place, fetch, told):
    held = sole(lock_path(NAME, place))
    assert held.__enter__()

    async def until_it_is_done(delay_s: float) -> None:
        told.waits.append(delay_s)
        if len(told.waits) == 2:
            held.__exit__(None, None, None)

    told.sleep = until_it_is_done
    assert not (await fetch()).missing
    assert told.codes == ["waiting"]


async def test_a_disk_without_room_refuses_before_any_weight(hub, fetch, monkeypatch):
    usage = type("Usage", (), {"free": 1_000_000_000})
    monkeypatch.setattr(pulling.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(HubError, match="make room") as raised:
        await fetch()
    assert not raised.value.waiting_helps
    assert hub.fetched(SHARD) == []


async def test_a_cache_that_cannot_be_written_serves_what_is_in_it(hub, place, fetch, monkeypatch):
    snapshot = await fetch()

    def refuse(*_: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(pulling, "sole", refuse)
    assert (await fetch()).folder == snapshot.folder
    with pytest.raises(HubError, match=r"cannot write to .*Read-only file system"):
        await fetch(ModelName("org/other"))


async def test_the_token_stays_with_the_hub(hub, place, fetch):
    await fetch(place=replace(place, token=TOKEN))
    assert hub.fetched(SHARD) == ["whole"]
    assert hub.tokens == []


async def test_files_with_the_same_contents_are_downloaded_once(hub, fetch, told):
    hub.files[OTHER_SHARD] = hub.files[SHARD]
    snapshot = await fetch()
    assert contents(snapshot.folder)[OTHER_SHARD] == contents(snapshot.folder)[SHARD] == hub.files[SHARD]
    assert len(hub.fetched(SHARD) + hub.fetched(OTHER_SHARD)) == 1
    assert told.progress[-1].done_bytes == told.progress[-1].total_bytes


async def test_of_two_kinds_of_weights_the_safe_one_is_taken(hub, fetch):
    hub.files |= {"pytorch_model.bin": b"pickled", "pytorch_model.bin.index.json": b"{}"}
    assert "pytorch_model.bin" not in contents((await fetch()).folder)


async def test_pickled_shards_are_taken_where_there_is_nothing_else(hub, fetch):
    data = hub.files[SHARD]
    index = b'{"metadata": {}, "weight_map": {"a": "pytorch_model-1-of-1.bin"}}'
    for file in (SHARD, OTHER_SHARD, "model.safetensors.index.json", "tokenizer.json"):
        del hub.files[file]
    hub.files |= {
        "pytorch_model-1-of-1.bin": data,
        "pytorch_model.bin.index.json": index,
        "tokenizer.model": b"sentencepiece",
    }
    assert contents((await fetch()).folder)["pytorch_model-1-of-1.bin"] == data


def left_by_the_older_client(hub: HubServer, place: Place) -> Path:
    """Return the folder of a model as ModelScope's older client leaves it."""
    folder = place.cache / "hub" / "models" / "org" / "model"
    folder.mkdir(parents=True)
    for file, data in hub.files.items():
        if "/" not in file:
            (folder / file).write_bytes(data)
    return folder


class TestModelScope:
    """The same over ModelScope's addresses, into ModelScope's cache."""

    NAME = ModelName("org/model", "modelscope")

    @pytest.fixture
    def place(self, hub: HubServer, tmp_path: Path) -> Place:
        return Place(hub.url, tmp_path / "ms", "", False, "MODELSCOPE_ENDPOINT", "MODELSCOPE_API_TOKEN")

    async def test_a_model_is_here_whole_where_modelscopes_client_looks(self, hub, place, fetch):
        hub.fails(SHARD, "cut 6000")
        snapshot = await fetch(self.NAME)
        assert snapshot.folder == place.cache / "models" / "org--model" / "snapshots" / "master"
        assert contents(snapshot.folder)[SHARD] == hub.files[SHARD]
        assert hub.fetched(SHARD) == ["whole", "bytes=6000-"]
        await hub.stop()
        assert (await fetch(self.NAME)).folder == snapshot.folder

    async def test_a_shard_that_its_older_client_left_in_part_is_not_present(self, hub, place, fetch):
        # Given weights that end before their header says
        folder = left_by_the_older_client(hub, place)
        (folder / SHARD).write_bytes(hub.files[SHARD][:-1])
        # Then they are not used
        found = find_snapshot(self.NAME, place)
        assert found is not None
        assert found.missing == (SHARD,)
        assert (await fetch(self.NAME)).folder == place.cache / "models" / "org--model" / "snapshots" / "master"

    async def test_what_its_older_client_left_is_used(self, hub, place, fetch):
        folder = left_by_the_older_client(hub, place)
        assert (await fetch(self.NAME)).folder == folder

    @pytest.mark.parametrize(
        ("refusal", "helps", "words"),
        [((404, {}), False, "there is no org/model"), ((502, {}), True, "answers 502"), ((403, {}), False, "forbids")],
    )
    async def test_a_refusal_is_one_line(self, hub, fetch, refusal, helps, words):
        hub.refuse = refusal
        with pytest.raises(HubError, match=words) as raised:
            await fetch(self.NAME)
        assert raised.value.waiting_helps == helps

    async def test_an_unknown_revision_wrong_contents_and_another_page(self, hub, fetch):
        with pytest.raises(HubError, match="no revision v9"):
            await fetch(self.NAME.at("v9"))
        hub.claims(SHARD, hashlib.sha256(b"").hexdigest())
        with pytest.raises(HubError, match="other contents"):
            await fetch(self.NAME)
        hub.page = "<html>"
        with pytest.raises(HubError, match="MODELSCOPE_ENDPOINT"):
            await fetch(self.NAME)

    async def test_the_token_stays_with_the_hub(self, hub, place, fetch):
        await fetch(self.NAME, place=replace(place, token=TOKEN))
        assert hub.tokens == []
