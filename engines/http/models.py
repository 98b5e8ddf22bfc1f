"""The list of a server's models: written by ours, read from any.

In: an `EngineInfo`, or the answer to ``GET /v1/models``. Out: the one made from the other.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any, Final, get_args

import orjson

from engines.adapter_names import model_with
from engines.base import EngineInfo, EngineUnavailableError, Variant
from engines.token_costs import TokenCosts

# What a server of another make is taken to accept when it does not say; it refuses for itself what is too much.
UNKNOWN_CONTEXT_TOKENS: Final = 131_072
UNKNOWN_MAX_IMAGES: Final = 64


def to_models(info: EngineInfo, created: int) -> bytes:
    """Encode the list of what an engine server has: its one model, and that model with each of its adapters.

    An adapter names its model as ``parent``, as in the lists of vLLM and SGLang.
    """
    model = {
        "id": info.model_id,
        "object": "model",
        "created": created,
        "owned_by": "glowl",
        "max_model_len": info.context_tokens,
        "glowl": {
            "engine": info.name,
            "variant": info.variant,
            "context_tokens": info.context_tokens,
            "max_images": info.max_images,
            "revision": info.revision,
            **({"costs": asdict(info.costs)} if info.costs is not None else {}),
        },
    }
    return orjson.dumps({"object": "list", "data": [model, *(_adapted(model, info, name) for name in info.adapters)]})


def _adapted(model: dict[str, Any], info: EngineInfo, name: str) -> dict[str, Any]:
    said = {**model["glowl"], "revision": info.revision_with(name)}
    return {**model, "id": model_with(info.model_id, name), "parent": info.model_id, "glowl": said}


def from_models(body: bytes, model: str | None = None) -> EngineInfo:
    """Describe the engine behind a model list.

    A server of another make says neither its role nor its limits: its model id is then taken for its name, and limits
    it does not tell are set so high that the server itself is the one to refuse. Adapters are the entries that name the
    model as their ``parent``; vLLM and SGLang say as ``root`` where they loaded it from, which is all that is known of
    its revision.

    Args:
        body: the answer to ``GET /v1/models``.
        model: which entry to take; None takes the first.

    Raises:
        EngineUnavailableError: if there is no such model, or the body is no model list.
    """
    try:
        entries = orjson.loads(body)["data"]
        # Adapters are listed too, each with the model it belongs to; without a name, a model is meant.
        named = (entry for entry in entries if entry["id"] == model or (model is None and not entry.get("parent")))
        entry = next(named, None)
        if entry is None:
            raise EngineUnavailableError(f"The engine does not serve a model named {model!r}.")
        model_id = str(entry["id"])
        own = entry.get("glowl")
        adapted = _adapters(entries, model_id)
        adapters = tuple(_adapter_ids(entries, model_id))
        if not own:
            return EngineInfo(
                name=model_id,
                model=model_id,
                variant="full",
                context_tokens=entry.get("max_model_len") or UNKNOWN_CONTEXT_TOKENS,
                max_images=UNKNOWN_MAX_IMAGES,
                adapters=adapters,
                revision=_text(entry.get("root")),
                adapter_revisions=_revisions(_text(entry.get("root")), [each.get("root") for each in adapted]),
            )
        variant = own["variant"]
        if variant not in get_args(Variant):
            raise ValueError(f"unknown variant {variant!r}")
        return EngineInfo(
            name=own["engine"],
            model=model_id if variant == "full" else model_id.removesuffix(f"-{variant}"),
            variant=variant,
            context_tokens=own["context_tokens"],
            max_images=own["max_images"],
            adapters=adapters,
            revision=_text(own.get("revision")),
            costs=_costs(own.get("costs")),
            adapter_revisions=_revisions(
                _text(own.get("revision")), [(each.get("glowl") or {}).get("revision") for each in adapted]
            ),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineUnavailableError("The engine answered with something that is no model list.") from error


def adapter_ids(body: bytes, model_id: str) -> dict[str, str]:
    """Return the ids under which a server takes a model's adapters, by their names, from the list `from_models` read.

    Ours and SGLang say ``model:name``; vLLM says whatever it was started with, and then that is the name.
    """
    return _adapter_ids(orjson.loads(body)["data"], model_id)


def _revisions(own: str, of_adapters: list[object]) -> tuple[str, ...]:
    """Return the adapters' revisions; none if nothing else is said of them than of their model."""
    found = tuple(map(_text, of_adapters))
    return () if {*found, own, ""} == {own, ""} else found


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _adapters(entries: list[dict[str, Any]], model_id: str) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry.get("parent") == model_id]


def _adapter_ids(entries: list[dict[str, Any]], model_id: str) -> dict[str, str]:
    ids = [str(entry["id"]) for entry in _adapters(entries, model_id)]
    return {id_.removeprefix(f"{model_id}:"): id_ for id_ in ids}


def _costs(said: Any) -> TokenCosts | None:
    """Read what an engine of any release says of its costs; an estimate needs no more than what is understood."""
    if not isinstance(said, dict):
        return None
    known = {each.name: said[each.name] for each in fields(TokenCosts) if each.name in said}
    is_sound = all(type(value) is int and value >= (name != "tokens_per_picture") for name, value in known.items())
    return TokenCosts(**known) if is_sound else None
