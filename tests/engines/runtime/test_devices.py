"""engines.runtime.devices: what an engine may take of a GPU, whoever starts first. The GPU is a fake."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from engines.base import EngineOptions
from engines.http.server import _parse
from engines.memory import PUBLISHED_CONFIGS, USABLE_SHARE, predict, read_shape
from engines.runtime import devices
from engines.runtime.batching import BatchLimits
from engines.runtime.devices import fit_context, size_batch
from engines.runtime.kv_cache import KVShape

GB = 10**9
CUDA = torch.device("cuda:0")
SHAPES = {
    "glm": KVShape(40, 2, 128, torch.bfloat16, CUDA, num_repeats=16, picture_row_bytes=8192),
    "owl2": KVShape(32, 32, 128, torch.bfloat16, CUDA, picture_row_bytes=8192),
}
CONTEXTS = {"glm": 131_072, "owl2": 2048}


def weights_of(name: str) -> int:
    return predict(read_shape(PUBLISHED_CONFIGS[name]), dtype="bfloat16", num_tokens=0).weights_bytes


@dataclass
class Card:
    """A GPU with what others have on it, as this process sees it."""

    total: int
    weights: int = 0
    others: int = 0
    fractions: list[float] = field(default_factory=list)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    card = Card(48 * GB)
    free = lambda _device: (card.total - card.weights - card.others, card.total)  # noqa: E731
    monkeypatch.setattr(torch.cuda, "mem_get_info", free)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: card.weights)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, _device: card.fractions.append(share)
    )
    monkeypatch.setattr(devices.HostStore, "beside", lambda *_: None)
    return card


def size(card: Card, name: str, **options: Any) -> tuple[BatchLimits, int]:
    """Start an engine on the card; its limits, and all that it may take, in bytes."""
    card.weights = weights_of(name)
    limits, cache = size_batch(name, EngineOptions("somewhere", **options), PUBLISHED_CONFIGS[name], SHAPES[name])
    return limits, card.weights + limits.max_tokens * SHAPES[name].bytes_per_token + cache._max_bytes


def test_what_two_engines_take_of_one_card_does_not_depend_on_who_measures_first(card: Card) -> None:
    # Given a card on which either engine starts first, and the other finds its weights and cache there
    results = []
    for order in (("glm", "owl2"), ("owl2", "glm")):
        card.others, found = 0, {}
        for name in order:
            limits, taken = size(card, name)
            found[name] = limits
            card.others += taken
        results.append(found)
        # Then both fit
        assert card.others < card.total

    # Then each has the same, and room for conversations
    assert results[0] == results[1]
    assert sum(card.fractions[:2]) == pytest.approx(USABLE_SHARE)
    for name, limits in results[0].items():
        assert fit_context(CONTEXTS[name], limits, SHAPES[name]) >= 2048


def test_a_stated_share_bounds_the_process_and_what_it_plans_with(card: Card) -> None:
    limits, taken = size(card, "glm", gpu_share=0.6)
    larger, _ = size(card, "glm", gpu_share=0.9)

    assert card.fractions == [0.6, 0.9]
    assert 0.5 * card.total < taken < 0.6 * card.total
    assert larger.max_tokens > 2 * limits.max_tokens


def test_a_cache_that_was_asked_for_leaves_the_batch_less(card: Card) -> None:
    limits, taken = size(card, "glm", gpu_share=0.6, cache_bytes=4 * GB)

    assert taken < 0.6 * card.total
    assert limits.max_tokens < size(card, "glm", gpu_share=0.6)[0].max_tokens


def test_a_share_smaller_than_the_weights_is_refused_with_what_to_change(card: Card) -> None:
    limits, _ = size(card, "owl2", gpu_share=0.3)

    with pytest.raises(ValueError, match="--gpu-share"):
        fit_context(2048, limits, SHAPES["owl2"])
    with pytest.raises(ValueError, match=r"up to 1, not 1\.5"):
        size(card, "owl2", gpu_share=1.5)


def test_where_the_two_do_not_fit_one_card_each_plans_with_all_of_it(card: Card) -> None:
    card.total = 24 * GB

    size(card, "glm")
    size(card, "owl2")

    assert card.fractions == [USABLE_SHARE, USABLE_SHARE]


def test_a_stranger_on_the_card_is_told_of_and_made_way_for(card: Card, caplog: pytest.LogCaptureFixture) -> None:
    alone, _ = size(card, "glm", gpu_share=0.9)
    assert not caplog.records

    card.others = 20 * GB
    beside, taken = size(card, "glm", gpu_share=0.9)

    assert beside.max_tokens < alone.max_tokens / 2
    assert taken < 28 * GB
    assert "another program has the rest; see --gpu-share" in caplog.text


def test_the_command_takes_a_share_or_chooses_one(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["owl2", "--model", "somewhere"]

    assert _parse(command).gpu_share is None
    assert _parse([*command, "--gpu-share", "auto"]).gpu_share is None
    assert _parse([*command, "--gpu-share", "0.4"]).gpu_share == 0.4
    for wrong in ("0", "1.01", "half", "nan"):
        with pytest.raises(SystemExit):
            _parse([*command, "--gpu-share", wrong])
        assert f"auto, or a number over 0 and up to 1, not '{wrong}'" in capsys.readouterr().err
