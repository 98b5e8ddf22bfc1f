"""A model, whole and verified on this disk: found there, or downloaded.

In: a `ModelName`. Out: a `Snapshot` with nothing missing, or a `HubError`. What can be retried is, as long as it helps;
what an earlier process left is gone on with; what is whole is not asked for again, so that a model once downloaded
starts without its hub.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp

from engines.hub.fetching import TIMEOUT, Fetcher, WrongContentsError, disk_error, part_of
from engines.hub.listing import Listing, RemoteFile, list_files
from engines.hub.names import ModelName, Place, model_dir, place_of
from engines.hub.progress import Watcher
from engines.hub.snapshots import (
    Snapshot,
    damaged_blobs,
    find_snapshot,
    index_of,
    lock_path,
    missing_files,
    record,
    remove_orphans,
    sole,
)
from engines.hub.words import AwayError, HubError, Note

# Left free beside a download: caches, logs, the system itself.
DISK_MARGIN_BYTES: Final = 2_000_000_000
# Tries in a row that bring nothing new; with the waits between them this is about five minutes.
MAX_FRUITLESS: Final = 9
_MAX_DELAY_S: Final = 60.0
_LOCK_POLL_S: Final = 1.0
_NUM_STREAMS: Final = 4

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[object]]


async def pull(
    name: ModelName,
    watcher: Watcher,
    *,
    place: Place | None = None,
    sleep: Sleep = asyncio.sleep,
    may_download: bool = True,
) -> Snapshot:
    """Make sure that a model is here.

    Args:
        name: which; without a revision, what is here is used, whatever the hub has by now.
        watcher: told how it gets on.
        place: of its hub; None reads the environment.
        sleep: between tries.
        may_download: False only looks, and verifies.

    Raises:
        HubError: if it cannot be had; ``waiting_helps`` says whether later.
    """
    place = place or place_of(name.hub)
    here = find_snapshot(name, place)
    try:
        async with _alone(name, place, watcher, sleep):
            found = await _verified(name, place, watcher)
            if found is not None and not found.missing:
                _remove_orphans(name, place, frozenset(), watcher)
                return found
            if place.is_offline or not may_download:
                missing = ", ".join(found.missing if found else ["everything"])
                values: dict[str, Any] = {
                    "repo": name.repo,
                    "folder": model_dir(name, place),
                    "variable": place.offline_variable,
                }
                raise HubError("offline", **values, missing=missing)
            return await _Download(name, place, watcher, sleep).run()
    except OSError as error:
        # Mounted read-only: whoever filled it has verified it, or not; it cannot be recorded here.
        if here is not None and not here.missing:
            return here
        raise disk_error(error, place.cache) from error


class _alone:  # noqa: N801  used as a function is
    """Hold the lock of a model while it is downloaded; wait for the process that holds it."""

    def __init__(self, name: ModelName, place: Place, watcher: Watcher, sleep: Sleep) -> None:
        self._path = lock_path(name, place)
        self._repo = name.repo
        self._watcher = watcher
        self._sleep = sleep

    async def __aenter__(self) -> None:
        has_said = False
        while True:
            self._held = sole(self._path)
            if self._held.__enter__():
                return
            self._held.__exit__(None, None, None)
            if not has_said:
                self._watcher.note(Note("waiting", repo=self._repo))
                has_said = True
            await self._sleep(_LOCK_POLL_S)

    async def __aexit__(self, *_: object) -> None:
        self._held.__exit__(None, None, None)


async def _verified(name: ModelName, place: Place, watcher: Watcher) -> Snapshot | None:
    """What is here; contents that nobody has verified yet are, and files that are damaged are taken away."""
    found = find_snapshot(name, place)
    if found is None or found.missing or found.is_verified:
        return found
    watcher.note(Note("checking", repo=name.repo))
    watcher.begin(found.num_bytes, 0)
    damaged = await asyncio.to_thread(damaged_blobs, found, watcher.moved)
    watcher.end()
    if not damaged:
        record(found, place)
        return find_snapshot(name, place)
    for link in damaged:
        watcher.note(Note("damaged", file=link.name, folder=found.folder, wanted=link.readlink().name[:12]))
        (link.parent / link.readlink()).unlink()
        link.unlink()
    return find_snapshot(name, place)


def _remove_orphans(name: ModelName, place: Place, wanted: frozenset[str], watcher: Watcher) -> None:
    freed = remove_orphans(name, place, wanted)
    if freed:
        watcher.note(Note("orphans", size_gb=freed / 1e9, folder=model_dir(name, place)))


class _Download:
    """One download, from asking the hub to the last link."""

    def __init__(self, name: ModelName, place: Place, watcher: Watcher, sleep: Sleep) -> None:
        self._name = name
        self._place = place
        self._watcher = watcher
        self._sleep = sleep
        self._home = model_dir(name, place)

    async def run(self) -> Snapshot:
        listing = await self._retry(lambda: list_files(self._name, self._place), fruit=lambda: 0)
        found = listing.name
        folder = self._home / "snapshots" / found.wanted_revision
        targets = {file: self._target(file, folder) for file in listing.files.values()}
        wanted = frozenset(part_of(target).name for target in targets.values())
        _remove_orphans(self._name, self._place, wanted, self._watcher)
        # Once for each target: files with the same contents share a blob.
        open_ = {target: file for file, target in targets.items() if not _is_whole(target, file)}
        self._begin(open_)
        async with aiohttp.ClientSession(trust_env=True, timeout=TIMEOUT) as session:
            fetcher = Fetcher(
                session,
                found,
                self._place,
                listing.headers,
                moved=self._watcher.moved,
                note=self._watcher.note,
            )
            # The index first: what it names has to be on the hub, before 37 GB are on their way.
            small = {target: file for target, file in open_.items() if not file.is_weights}
            await self._fetch(fetcher, small)
            self._check_index(listing, targets)
            await self._fetch(fetcher, {target: file for target, file in open_.items() if file.is_weights})
        self._watcher.end()
        for file, target in targets.items():
            _link(folder / file.path, target)
        self._keep_ref(found)
        if missing := missing_files(folder):
            raise self._lacks(missing[0])
        snapshot = Snapshot(found, folder, (), is_verified=True)
        record(snapshot, self._place)
        return snapshot

    def _target(self, file: RemoteFile, folder: Path) -> Path:
        """Where the contents go: on Hugging Face a blob that is named by its hash."""
        return self._home / "blobs" / file.hash if self._name.hub == "huggingface" else folder / file.path

    def _begin(self, targets: Mapping[Path, RemoteFile]) -> None:
        total = sum(file.num_bytes for file in targets.values())
        have = sum(_size_of(part_of(target)) for target in targets)
        folder = self._home
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if targets and free < total - have + DISK_MARGIN_BYTES:
            raise HubError("disk", need_gb=(total - have) / 1e9, free_gb=free / 1e9, folder=self._home)
        self._watcher.begin(total, have)

    async def _fetch(self, fetcher: Fetcher, targets: Mapping[Path, RemoteFile]) -> None:
        free = asyncio.Semaphore(_NUM_STREAMS)

        async def fetch(file: RemoteFile, target: Path) -> None:
            async with free:
                await self._retry(lambda: fetcher.fetch(file, target), fruit=lambda: _size_of(part_of(target)))

        try:
            async with asyncio.TaskGroup() as tasks:
                for target, file in targets.items():
                    tasks.create_task(fetch(file, target))
        except* HubError as errors:
            raise errors.exceptions[0] from None

    async def _retry(self, work: Callable[[], Awaitable[T]], *, fruit: Callable[[], int]) -> T:
        """Try again as long as it helps: a try that brought more than all before it counts as the first."""
        num_fruitless, num_wrong, most = 0, 0, fruit()
        while True:
            try:
                return await work()
            except WrongContentsError as error:
                num_wrong += 1
                if num_wrong > 1:
                    raise error.final from error
                self._watcher.note(error.note)
                most = 0
            except AwayError as error:
                num_fruitless = 1 if fruit() > most else num_fruitless + 1
                most = max(most, fruit())
                if num_fruitless >= MAX_FRUITLESS:
                    raise
                delay_s = error.retry_after_s or min(_MAX_DELAY_S, 2.0 ** (num_fruitless - 1))
                self._watcher.note(Note("retry", why=error.note, delay_s=delay_s))
                await self._sleep(delay_s)

    def _check_index(self, listing: Listing, targets: Mapping[RemoteFile, Path]) -> None:
        for file, target in targets.items():
            if file.path.endswith(".index.json"):
                for shard in index_of(target):
                    if shard not in listing.files:
                        raise self._lacks(shard)

    def _lacks(self, file: str) -> HubError:
        values: dict[str, Any] = {
            "repo": self._name.repo,
            "revision": self._name.wanted_revision,
            "endpoint": self._place.endpoint,
        }
        return HubError("missing", **values, file=file)

    def _keep_ref(self, found: ModelName) -> None:
        """Name the commit as the hub's client does, so that others find it by its branch."""
        asked = self._name.wanted_revision
        if self._name.hub == "huggingface" and asked != found.revision:
            path = self._home / "refs" / asked
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(found.revision, encoding="utf-8")


def _is_whole(target: Path, file: RemoteFile) -> bool:
    return _size_of(target) == file.num_bytes and target.is_file()


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _link(link: Path, target: Path) -> None:
    """Make a snapshot's file out of a blob, by a relative link as the hub's client does."""
    if link == target or link.exists():
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(Path("../..") / target.relative_to(target.parent.parent))
