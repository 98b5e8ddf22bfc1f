"""From model names to engines.

In: the name a caller wrote as ``model``. Out: a `Target`: the engine and the adapter it asks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from engines.adapter_names import describe_unknown, find_adapter, model_with, split_model
from router.api import texts
from router.errors import NotFoundError
from router.health import EngineMonitor

AUTO_MODEL: Final = "glowl"
# Behind the colon, in place of an adapter: the model as it is, unless an adapter is named so.
BASE: Final = "base"
# What callers may write as the model, without the suffix that says which weights are loaded.
_MODELS: Final[dict[str, str | None]] = {
    AUTO_MODEL: None,
    "auto": None,
    "glm-4.6v-flash": "glm",
    "glm-4.6v-flash-web": "glm",
    "zai-org/glm-4.6v-flash": "glm",
    "mplug-owl2": "owl2",
    "mplug-owl2-llama2-7b": "owl2",
    "mager13/mplug-owl2-llama2-7b": "owl2",
}


_VARIANTS: Final = ("-random-tiny", "-pocket", "-echo")


@dataclass(frozen=True, slots=True)
class Target:
    """What a model name asks for.

    Attributes:
        engine: ``glm`` or ``owl2``; None leaves it to the policy.
        adapter: which of its LoRA adapters; empty for none.
        is_base: the model without any adapter is meant, whichever one answers for it by now.
    """

    engine: str | None
    adapter: str = ""
    is_base: bool = False


def resolve_model(name: str, monitor: EngineMonitor) -> Target:
    """Return the engine and the adapter that a model name asks for.

    Beside the two models' names, an engine is asked for by whatever name its server lists the model under; behind a
    colon stands one of its adapters.

    Raises:
        NotFoundError: if there is no such model, or no such adapter of it.
    """
    base, wanted = split_model(name)
    bare = base.strip().lower()
    for suffix in _VARIANTS:
        bare = bare.removesuffix(suffix)
    if bare in _MODELS:
        engine = _MODELS[bare]
    elif (engine := monitor.name_of(name)) is not None:  # whose own name may have a colon in it
        return Target(engine)
    else:
        engine = monitor.name_of(base)
    if engine is None and (":" in name or bare not in _MODELS):
        raise NotFoundError(
            texts.UNKNOWN_MODEL.fill(name=name, auto_model=AUTO_MODEL), code="model_not_found", param="model"
        )
    if engine is None or ":" not in name:
        return Target(engine)
    info = monitor.info(engine)
    is_base = wanted.strip().lower() == BASE
    if is_base and (info is None or find_adapter(wanted, info.adapters) is None):
        return Target(engine, is_base=True)
    if info is None:  # it was never up, so its adapters are unknown; it refuses an adapter that it lacks
        return Target(engine, wanted)
    adapter = find_adapter(wanted, info.adapters)
    if adapter is None:
        names = [f"'{model_with(info.model_id, other)}'" for other in info.adapters]
        known = texts.ADAPTERS.fill(adapters="、".join(names)) if names else texts.NO_ADAPTERS
        raise NotFoundError(
            texts.UNKNOWN_ADAPTER.fill(says=describe_unknown(name, info), name=name, known=known),
            code="model_not_found",
            param="model",
        )
    return Target(engine, adapter)
