"""LoRA adapters on one model: loaded and checked at the start, added row by row while a batch runs.

In: names and where the adapters are; then, around each forward, which row wants which. Out: the model's own modules,
each adding to its output what the rows' adapters say. Belongs to the model thread.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from engines.runtime.prefix_cache import CacheScope

# Kinds of LoRA that are more than adding a product of two matrices to the output of one.
_UNSUPPORTED = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
)
_MATRIX = re.compile(r"\.lora_[AB]\.weight$")
_PREFIX = "base_model.model."  # before the names of modules in peft's files
_INSIDE = "adapter"  # what peft calls the one that it is reading

log = logging.getLogger(__name__)


class AdapterError(ValueError):
    """An adapter cannot be used with this model; the message names it and says why, in one line."""


class Delta(NamedTuple):
    """What an adapter adds to one matrix: ``up @ down``, the scaling already in ``up``."""

    down: Tensor
    """(r, in)"""
    up: Tensor
    """(out, r)"""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter, read and checked.

    Attributes:
        name: what requests call it.
        deltas: by name of the module whose output they change.
        touches_vision: it changes what the vision tower makes of a picture, not only what is said about it.
    """

    name: str
    deltas: dict[str, Delta]
    touches_vision: bool = False

    @property
    def num_bytes(self) -> int:
        """Memory of its matrices."""
        return sum(delta.down.nbytes + delta.up.nbytes for delta in self.deltas.values())


class _Group(NamedTuple):
    """Rows of a forward that use one adapter; all of them if there is no index."""

    adapter: str
    rows: Tensor | None


class Adapters:
    """The adapters of one model.

    The model's modules stay as they are, quantized or not; a hook on each module that some adapter changes adds to its
    output. Rows without an adapter are not touched, and a forward without one costs a look at an empty list.

    Args:
        model: in evaluation mode; each of its modules keeps the rows of a batch as its first dimension, or is given
            one row of the batch alone.
        adapters: with the device and dtype of their matrices already the model's.

    Raises:
        KeyError: if a module that an adapter changes is not there.
    """

    def __init__(self, model: nn.Module, adapters: Sequence[Adapter] = ()) -> None:
        self._by_name = {adapter.name: adapter for adapter in adapters}
        self._groups: list[_Group] = []
        self._last: tuple[tuple[str, ...], list[_Group]] = ((), [])
        modules = dict(model.named_modules()) if adapters else {}
        for name in dict.fromkeys(name for adapter in adapters for name in adapter.deltas):
            by_adapter = {adapter.name: adapter.deltas[name] for adapter in adapters if name in adapter.deltas}
            modules[name].register_forward_hook(self._make_hook(by_adapter))

    @property
    def names(self) -> tuple[str, ...]:
        """Of all adapters, in the order in which they were given."""
        return tuple(self._by_name)

    def feature_scope(self, scope: CacheScope) -> CacheScope:
        """Return where vision features are shared: by all adapters but those that change the vision tower."""
        adapter = self._by_name.get(scope.adapter)
        return scope if adapter is not None and adapter.touches_vision else replace(scope, adapter="")

    @contextmanager
    def applied(self, rows: Sequence[str]) -> Iterator[None]:
        """Let the model answer each row with its adapter while the block runs.

        Args:
            rows: one name per row of what the model is given, empty for the model as it is; a single name is for
                whatever the model is given.
        """
        self._groups = self._group(rows)
        try:
            yield
        finally:
            self._groups = []

    def _group(self, rows: Sequence[str]) -> list[_Group]:
        key = tuple(rows)
        if not any(key):
            return []
        if self._last[0] != key:  # a batch keeps its rows for many steps
            names = dict.fromkeys(key)
            groups = [_Group(name, None if len(names) == 1 else self._index(name, key)) for name in names if name]
            self._last = (key, groups)
        return self._last[1]

    def _index(self, name: str, rows: tuple[str, ...]) -> Tensor:
        places = [place for place, row in enumerate(rows) if row == name]
        device = next(iter(self._by_name[name].deltas.values())).up.device
        return torch.tensor(places, device=device)

    def _make_hook(self, by_adapter: dict[str, Delta]) -> Any:
        def add(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            for name, rows in self._groups:
                delta = by_adapter.get(name)
                if delta is None:
                    continue
                x = inputs[0].to(delta.down.dtype)
                if rows is None:
                    output = output + _product(x, delta).to(output.dtype)
                else:
                    output = output.index_add(0, rows, _product(x.index_select(0, rows), delta).to(output.dtype))
            return output if self._groups else None

        return add


def _product(x: Tensor, delta: Delta) -> Tensor:
    return nn.functional.linear(nn.functional.linear(x, delta.down), delta.up)


def load_adapters(
    model: Any,
    base: str,
    sources: Sequence[tuple[str, str]],
    device: torch.device,
    dtype: torch.dtype,
    vision: Sequence[str],
) -> Adapters:
    """Read, check and place adapters.

    Args:
        model: a transformers model, loaded, in evaluation mode.
        base: its checkpoint folder or hub id.
        sources: (name, folder or hub id) of each.
        device: of the model.
        dtype: to compute what the adapters add in.
        vision: names of the modules that turn pictures into rows.

    Raises:
        AdapterError: for the first that cannot be used.
    """
    if not sources:
        return Adapters(model)
    # Names and shapes of the modules, without weights: peft reads into copies of it and never sees the served weights,
    # whatever they are quantized with.
    with torch.device("meta"):
        skeleton = type(model)(copy.deepcopy(model.config))
    adapters = []
    for name, source in sources:
        adapter = read_adapter(skeleton, base, name, source)
        placed = {
            module: Delta(delta.down.to(device, dtype), delta.up.to(device, dtype))
            for module, delta in adapter.deltas.items()
        }
        touches_vision = any(module.startswith(tuple(f"{part}." for part in vision)) for module in placed)
        adapters.append(replace(adapter, deltas=placed, touches_vision=touches_vision))
        log.info(
            "adapter %s from %s: %d matrices, %.1f MB%s",
            name,
            source,
            len(placed),
            adapters[-1].num_bytes / 1e6,
            ", vision too" if adapter.touches_vision else "",
        )
    return Adapters(model, adapters)


def read_adapter(skeleton: nn.Module, base: str, name: str, source: str) -> Adapter:
    """Read one adapter and check that it is for this model.

    Args:
        skeleton: the model's architecture on the meta device; unchanged afterwards.
        base: checkpoint folder or hub id of the model that will run.
        name: what requests call it.
        source: its folder or hub id, as peft's ``save_pretrained`` writes it.

    Returns:
        Its matrices on the CPU, in float32.

    Raises:
        AdapterError: if it cannot be read, is of a kind that is not supported, or does not fit the model.
    """
    from peft import PeftConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer
    from peft.utils import load_peft_weights

    def refuse(why: object) -> AdapterError:
        return AdapterError(f"adapter '{name}' ({source}) cannot be used: {' '.join(str(why).split())[:500]}")

    where = str(Path(source).expanduser()) if Path(source).expanduser().is_dir() else source
    try:
        config: Any = PeftConfig.from_pretrained(where)
        weights: dict[str, Tensor] = load_peft_weights(where, device="cpu")
    except Exception as error:  # files, the hub, JSON and pickles all raise different errors
        raise refuse(error) from error
    _check_config(config, weights, base, refuse)
    try:
        # peft knows which modules a config means, and the rank and scaling at each.
        holder = inject_adapter_in_model(config, copy.deepcopy(skeleton), _INSIDE, low_cpu_mem_usage=True)
    except Exception as error:  # no such module, a rank of 0
        raise refuse(error) from error
    deltas: dict[str, Delta] = {}
    for module, layer in holder.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        if not isinstance(layer.get_base_layer(), nn.Linear):
            raise refuse(f"{module} is no matrix but a {type(layer.get_base_layer()).__name__}; leave it out")
        pair = []
        for letter, side in (("A", layer.lora_A), ("B", layer.lora_B)):
            matrix = weights.pop(f"{_PREFIX}{module}.lora_{letter}.weight", None)
            expected = tuple(side.get_parameter(f"{_INSIDE}.weight").shape)
            if matrix is None:
                raise refuse(f"its file has no lora_{letter} for {module}")
            if tuple(matrix.shape) != expected:
                raise refuse(f"lora_{letter} of {module} is {tuple(matrix.shape)}; this model needs {expected}")
            pair.append(matrix.float())
        deltas[module] = Delta(pair[0], pair[1] * layer.scaling[_INSIDE])
    if weights:
        raise refuse(f"this model has no place for its {min(weights)}")
    return Adapter(name, deltas)


def _check_config(config: Any, weights: dict[str, Tensor], base: str, refuse: Callable[[object], AdapterError]) -> None:
    """Refuse what could be read but would not do what it was trained to do."""
    kind = getattr(config.peft_type, "value", config.peft_type)
    if kind != "LORA":
        raise refuse(f"it is of the kind {kind}; only LORA is supported")
    used = [name for name in _UNSUPPORTED if getattr(config, name, None)]
    if config.bias != "none":
        used.append("bias")
    if used:
        raise refuse(f"{', '.join(used)} in its adapter_config.json is not supported")
    if other := next((key for key in weights if not _MATRIX.search(key)), None):
        raise refuse(f"its file holds {other}, which is no matrix of a LoRA")
    trained_on = config.base_model_name_or_path or ""
    if _last_part(trained_on) not in ("", _last_part(base)):
        # Folders may be called anything; two ids of the hub are two models, though they may be of one shape.
        if _is_hub_id(trained_on) and _is_hub_id(base):
            raise refuse(f"it was trained on {trained_on}, and this is {base}")
        log.warning("an adapter was trained on %s, and this is %s", trained_on, base)


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None and not Path(name).exists()


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()
