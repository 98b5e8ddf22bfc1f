"""`glowl backup` and `glowl restore`: everything that redis keeps, in one file, and back.

In: a file, and the redis of `REDIS_URL` or of a data folder, whose server is started for so long where no `glowl up`
runs. Out: the file, or the redis as it was when the file was made; one line on stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from router.cli.common import Language, LanguageOption, fail, load_settings, parse_language
from router.cli.data_folder import Layout, locked
from router.cli.owner_store import DataDirOption, running_redis
from router.cli.texts import say

if TYPE_CHECKING:
    from redis.asyncio import Redis

Result = TypeVar("Result")
STREAM = Path("-")
FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="Such as glowl-2026-11-29.gz; - for stdout or stdin.", show_default=False)
]

LoopOption = Annotated[
    Path | None,
    typer.Option("--loop", metavar="FILE", help="A second file, such as kept.tar.gz, for answers kept for data sets."),
]

# Many values at once from a disk that is busy; a server that says nothing for so long is away.
_TIMEOUT_S = 60.0
_START_S = 600.0
_LOOK_EVERY_S = 0.1


def backup(
    file: FileArgument, loop: LoopOption = None, data_dir: DataDirOption = None, lang: LanguageOption = None
) -> None:
    """Write jobs, files, batches, owners, keys and webhooks into a file; the service goes on meanwhile."""
    language = parse_language(lang)
    if file == STREAM and sys.stdout.isatty():
        fail(say("backup.terminal", language))
    with _usable_redis(data_dir, language) as url:
        from router.backup.restore import describe

        found = _run(_backup(url, file), file, language)
    stored = describe(found).of(language) or say("backup.nothing", language)
    typer.echo(say("backup.done", language, file=file, stored=stored), err=True)
    _backup_kept(loop, _loop_dir(data_dir), language)


def restore(
    file: FileArgument,
    is_replacing: Annotated[bool, typer.Option("--replace", help="Delete what redis has now.")] = False,
    loop: LoopOption = None,
    is_only_checked: Annotated[bool, typer.Option("--check", help="Only say whether the file is whole.")] = False,
    data_dir: DataDirOption = None,
    lang: LanguageOption = None,
) -> None:
    """Put a backup into an empty redis, all of it or nothing; the service must be stopped."""
    from router.backup.archive import check_archive
    from router.backup.restore import describe

    language = parse_language(lang)
    with _local(file) as path:
        header, num_keys = _run(asyncio.to_thread(check_archive, path), file, language)
        if is_only_checked:
            typer.echo(say("restore.whole", language, file=file, keys=num_keys, made_at=header["made_at"]), err=True)
            return
        with _usable_redis(data_dir, language) as url:
            found = _run(_restore(url, path, is_replacing=is_replacing), file, language)
    stored = describe(found).of(language) or say("backup.nothing", language)
    if loop is not None:
        from router.loop.one_file import restore_kept

        folder = _loop_dir(data_dir)
        count = _run(asyncio.to_thread(restore_kept, loop, folder, is_replacing=is_replacing), loop, language)
        typer.echo(say("restore.kept", language, count=count, folder=folder), err=True)
    typer.echo(say("restore.done", language, stored=stored, made_at=header["made_at"]), err=True)


def _loop_dir(data_dir: Path | None) -> Path:
    found = load_settings().loop_dir
    return found if data_dir is None else data_dir.expanduser().resolve() / found.name


def _backup_kept(file: Path | None, folder: Path, language: Language) -> None:
    """Write the second file; without one, say what is in no backup.

    Raises:
        typer.Exit: after one line, if it cannot be written.
    """
    from router.loop.one_file import write_kept
    from router.loop.store import FILE

    if not (folder / FILE).is_file():
        if file is not None:
            fail(say("backup.kept.none", language, folder=folder))
        return
    if file is None:
        typer.echo(say("backup.kept.left", language, folder=folder), err=True)
        return
    count = _run(asyncio.to_thread(write_kept, folder, file), file, language)
    typer.echo(say("backup.kept", language, file=file, count=count), err=True)


async def _backup(url: str, path: Path) -> dict[str, int]:
    from router.backup.archive import ArchiveWriter, new_file
    from router.backup.restore import count_kinds
    from router.backup.snapshot import snapshot
    from router.backup.values import key_of

    kept: set[bytes] = set()
    with contextlib.nullcontext(sys.stdout.buffer) if path == STREAM else new_file(path) as raw:
        writer = ArchiveWriter(raw)
        async with _client(url) as redis, contextlib.aclosing(snapshot(redis)) as lines:
            async for line in lines:
                (kept.discard if line["type"] == "none" else kept.add)(key_of(line))
                # Compressing is slow, and the connection that tells of changes must be read meanwhile.
                await asyncio.to_thread(writer.add, line)
        writer.finish()
    return count_kinds(kept)


@contextlib.contextmanager
def _local(file: Path) -> Iterator[Path]:
    """Give a file that can be read twice: what comes on stdin is kept for so long."""
    if file != STREAM:
        yield file
        return
    with tempfile.NamedTemporaryFile(prefix="glowl-restore-") as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
        yield Path(copy.name)


async def _restore(url: str, path: Path, *, is_replacing: bool) -> dict[str, int]:
    from router.backup.restore import restore as put_back

    async with _client(url) as redis:
        return await put_back(redis, path, is_replacing=is_replacing)


@contextlib.asynccontextmanager
async def _client(url: str) -> AsyncGenerator[Redis]:
    from router.redis_clients import make_client

    async with make_client(url, timeout_s=_TIMEOUT_S, connect_timeout_s=5) as redis:
        yield redis


def _run(work: Coroutine[Any, Any, Result], file: Path, language: Language) -> Result:
    """Do it.

    Raises:
        typer.Exit: after one line, if it cannot be done.
    """
    from router.backup.archive import ArchiveError
    from router.errors import QueueUnavailableError

    try:
        return asyncio.run(work)
    except sqlite3.Error as error:
        fail(f"{file}: {error}")
    except ArchiveError as error:
        fail(f"{file}: {error.text.of(language)}")
    except QueueUnavailableError as error:
        fail(error.text.of(language))
    except FileExistsError:
        fail(say("backup.exists", language, file=file))
    except OSError as error:
        fail(f"{error.filename or file}: {error.strerror or error}")


@contextlib.contextmanager
def _usable_redis(data_dir: Path | None, language: Language) -> Iterator[str]:
    """Give the address of a redis that answers; where it must be started for that, it is ended afterwards.

    Raises:
        typer.Exit: after one line, if there is none.
    """
    settings = load_settings()
    layout = Layout((data_dir or settings.data_dir).expanduser().resolve())
    if url := running_redis(settings, layout, language):
        yield url
        return
    layout.make(language)
    with locked(layout, None, language), _started_redis(layout, language) as url:
        yield url


@contextlib.contextmanager
def _started_redis(layout: Layout, language: Language) -> Iterator[str]:
    from router.cli.net import local_address
    from router.cli.redis_server import RedisMissingError, find_redis, redis_argv, redis_url

    try:
        # `REDIS_URL` is not set, as whoever calls this has seen.
        choice = find_redis({})
    except RedisMissingError as error:
        fail(error.text.of(language))
    assert choice.binary is not None
    address = local_address(layout.run_dir / "redis.sock")
    log = layout.log_dir / "redis.log"
    with log.open("ab") as output:
        server = subprocess.Popen(  # noqa: S603
            redis_argv(choice.binary, address, layout.redis_dir), stdout=output, stderr=subprocess.STDOUT, env=_bare()
        )
    try:
        if not asyncio.run(_answers(redis_url(address), server)):
            fail(say("backup.redis", language, log=log))
        yield redis_url(address)
    finally:
        server.terminate()
        server.wait()


async def _answers(url: str, server: subprocess.Popen[bytes]) -> bool:
    """Wait until a server has read its data; False if it ends, or reads on for ten minutes."""
    from router.cli.redis_server import ping

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_START_S):
            while server.poll() is None:
                if await ping(url) is not None:
                    return True
                await asyncio.sleep(_LOOK_EVERY_S)
    return False


def _bare() -> dict[str, str]:
    """An environment without anybody's secrets."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
