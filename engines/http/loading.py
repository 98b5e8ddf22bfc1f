"""From an engine's name to an engine that is imported and loaded when it starts.

In: a name and `EngineOptions`. Out: an engine, or a `ValueError` that says what is missing, before anything heavy.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import logging
import pkgutil
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import engines
from engines import echo
from engines.base import (
    CallerWait,
    CanEnd,
    CountsTokens,
    Delta,
    Engine,
    EngineInfo,
    EngineOptions,
    EngineUnavailableError,
    GenerationRequest,
    HasTrouble,
    HasWaiting,
    Usage,
)
from engines.hub.names import ModelName
from engines.hub.progress import Watcher
from engines.hub.snapshots import pointer_files
from engines.logs import adopt
from engines.meters import EngineMeters, EngineState, HasMeters

_PROGRESS_EVERY_S = 30.0

log = logging.getLogger(__name__)

_PACKAGES: Final = {"owl2_vllm": ("torch", "transformers", "vllm")}
_ON_VLLM: Final = "see engines/owl2_vllm/README.md for an environment of its own with vLLM in it"


class DeferredEngine:
    """An engine whose module is imported, and which is made, by `start`: importing torch takes seconds.

    Args:
        load: makes the engine; called once, on another thread.
        fetch: awaited before that.
    """

    def __init__(self, load: Callable[[], Engine], fetch: Callable[[], Awaitable[None]] | None = None) -> None:
        self._load = load
        self._fetch = fetch
        self._loading: asyncio.Future[Engine] | None = None
        self._meters = EngineMeters()

    async def info(self) -> EngineInfo:
        """Describe the engine.

        Raises:
            EngineUnavailableError: before it is loaded.
        """
        return await self._engine().info()

    async def start(self) -> None:
        """Download what is not here, import, load and warm up.

        Raises:
            HubError: if the model cannot be had.
        """
        if self._fetch is not None:
            await self._fetch()
        self._loading = asyncio.ensure_future(asyncio.to_thread(self._load))
        engine = await asyncio.shield(self._loading)
        await engine.start()

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Generate an answer.

        Raises:
            EngineError: what the engine raises; `EngineUnavailableError` before it is loaded.
        """
        async with contextlib.aclosing(self._engine().stream(request)) as deltas:
            async for delta in deltas:
                yield delta

    async def count(self, request: GenerationRequest) -> Usage | None:
        """See `engines.base.CountsTokens`; None from an engine that does not.

        Raises:
            EngineError: what the engine raises; `EngineUnavailableError` before it is loaded.
        """
        engine = self._engine()
        return await engine.count(request) if isinstance(engine, CountsTokens) else None

    def trouble(self) -> str:
        """See `engines.base.HasTrouble`; of an engine that says nothing of it, all is well."""
        engine = self._loaded()
        return engine.trouble() if isinstance(engine, HasTrouble) else ""

    async def ended(self) -> str:
        """See `engines.base.CanEnd`; one that cannot end by itself never does."""
        engine = self._engine()
        if not isinstance(engine, CanEnd):
            await asyncio.Event().wait()
            raise AssertionError("nothing sets that event")
        return await engine.ended()

    def waiting(self) -> tuple[CallerWait, ...]:
        """See `engines.base.HasWaiting`; at an engine that says nothing of it, nobody waits."""
        engine = self._loaded()
        return engine.waiting() if isinstance(engine, HasWaiting) else ()

    @property
    def meters(self) -> EngineMeters:
        """See `engines.meters.HasMeters`; the engine's own once it is loaded."""
        engine = self._loaded()
        return engine.meters if isinstance(engine, HasMeters) else self._meters

    def state(self) -> EngineState:
        """See `engines.meters.HasMeters`."""
        engine = self._loaded()
        return engine.state() if isinstance(engine, HasMeters) else EngineState()

    async def aclose(self) -> None:
        """Wait for an import that is under way, since it cannot be broken off, then close what it made."""
        if self._loading is None:
            return
        with contextlib.suppress(Exception):  # `start` has raised it already
            engine = await asyncio.shield(self._loading)
            await engine.aclose()

    def _engine(self) -> Engine:
        if (engine := self._loaded()) is None:
            raise EngineUnavailableError("The engine is loading.")
        return engine

    def _loaded(self) -> Engine | None:
        loading = self._loading
        if loading is None or not loading.done() or loading.cancelled() or loading.exception() is not None:
            return None
        return loading.result()


def load_engine(name: str, options: EngineOptions) -> Engine:
    """Make the engine that a name and a model stand for; nothing heavy is imported before its ``start``.

    Args:
        name: a folder under ``engines/`` that has an ``engine.py`` with ``load(options)``.
        options: ``model="echo"`` gives the echo engine of that name.

    Raises:
        ValueError: if there is no such engine, no such checkpoint folder or no such adapter, or if torch or, with
            adapters, peft is not installed.
    """
    is_on_vllm = "vllm" in _PACKAGES.get(name, ())
    if options.adapters and is_on_vllm:
        raise ValueError(f"engine '{name}' takes no adapters; 'glm' and 'owl2' do")
    if options.model == "echo":
        return echo.load(name, options)
    if options.vllm_args and not is_on_vllm:
        raise ValueError(f"engine '{name}' does not run on vLLM and takes no --vllm-args")
    if name not in _engine_names():
        raise ValueError(
            f"there is no engine named '{name}'; there are: {', '.join(_engine_names())}"
            + (f". For this one {_ON_VLLM}" if is_on_vllm else "")
        )
    missing = [
        package
        for package in _PACKAGES.get(name, ("torch", "transformers"))
        if importlib.util.find_spec(package) is None
    ]
    if missing:
        how = _ON_VLLM if is_on_vllm else "pip install 'glowl[engines]'"
        raise ValueError(f"engine '{name}' needs {' and '.join(missing)}, not installed here: {how}")
    model = Path(options.model).expanduser()
    if model.is_dir():
        if not (model / "config.json").is_file():
            raise ValueError(f"{model} is no checkpoint folder: it has no config.json")
        if pointers := pointer_files(model):
            raise ValueError(f"{model} was cloned without Git LFS: run `git lfs pull` in it to get {pointers[0]}")
    elif ModelName.parse(options.model) is None:
        raise ValueError(f"there is no checkpoint folder at {model}")

    if options.adapters and importlib.util.find_spec("peft") is None:
        raise ValueError("adapters need peft, not installed here: pip install 'glowl[adapters]'")
    for adapter, source in options.adapters:
        folder = Path(source).expanduser()
        if folder.is_dir():
            if not (folder / "adapter_config.json").is_file():
                raise ValueError(f"adapter '{adapter}': {folder} is no adapter's folder: it has no adapter_config.json")
        elif ModelName.parse(source) is None:
            raise ValueError(f"adapter '{adapter}': there is no folder at {folder}")

    def load() -> Engine:
        module = importlib.import_module(f"engines.{name}.engine")
        adopt("transformers")
        engine: Engine = module.load(options)
        return engine

    async def fetch() -> None:
        nonlocal options
        options = await fetched(options)

    return DeferredEngine(load, fetch)


async def fetched(options: EngineOptions) -> EngineOptions:
    """Turn a model's name into the folder that it was downloaded to; a folder stays as it is.

    Raises:
        HubError: if it cannot be had.
    """
    name = _name_of(options.model)
    if name is None:
        return options
    watcher = Watcher(
        lambda progress: log.info("downloading %s: %s", name, progress),
        lambda note: log.info("%s", note),
        every_s=_PROGRESS_EVERY_S,
    )
    from engines.hub.pull import pull  # its http client is a tenth of the start, and few downloads are left to do

    snapshot = await pull(name, watcher)
    log.info("%s is in %s", snapshot.name, snapshot.folder)
    return replace(options, model=str(snapshot.folder), model_name=name.repo)


def _name_of(model: str) -> ModelName | None:
    return None if Path(model).expanduser().is_dir() else ModelName.parse(model)


def _engine_names() -> list[str]:
    folders = [Path(path) for path in engines.__path__]
    packages = [module.name for module in pkgutil.iter_modules(engines.__path__) if module.ispkg]
    return [name for name in packages if any((folder / name / "engine.py").is_file() for folder in folders)]
