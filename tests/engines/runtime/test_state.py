"""How long a GPU takes is told without waiting for it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from engines.runtime import state  # noqa: E402
from engines.runtime.prefix_cache import CacheStats  # noqa: E402
from engines.runtime.state import DeviceTimer, is_lost, state_of  # noqa: E402


def test_a_gpu_is_timed_without_waiting_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Event:
        """Done once somebody says so."""

        done = False

        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            pass

        def query(self) -> bool:
            return Event.done

        def elapsed_time(self, _other: Event) -> float:
            return 250.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    told: list[float] = []
    timer = DeviceTimer(torch.device("cuda"), told.append)
    with timer.measure():
        pass
    timer.tell_ended()
    assert told == []
    Event.done = True
    timer.tell_ended()
    assert told == [0.25]


def test_a_gpu_is_lost_when_even_waiting_for_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_device: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    assert not is_lost(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: None)
    assert not is_lost(torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "synchronize", refuse)
    assert is_lost(torch.device("cuda:0"))


@pytest.mark.parametrize("is_there", [True, False])
def test_how_busy_a_gpu_is_is_told_where_its_driver_says(monkeypatch: pytest.MonkeyPatch, is_there: bool) -> None:
    def say(_device: object) -> int:
        if not is_there:
            raise RuntimeError("NVML: not supported")  # as of a part of a GPU
        return 37

    monkeypatch.setattr(state, "find_spec", lambda _name: object())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (1, 4))
    monkeypatch.setattr(torch.cuda, "utilization", say)
    found = state_of(None, CacheStats(), torch.device("cuda:0"))
    assert (found.gpu_used_bytes, found.gpu_total_bytes) == (3, 4)
    assert found.gpu_usage == (0.37 if is_there else None)
    assert state_of(None, CacheStats(), torch.device("cpu")).gpu_usage is None


def test_what_asks_the_driver_is_installed_with_the_engines() -> None:
    metadata = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text("utf-8"))
    needed = metadata["project"]["optional-dependencies"]["engines"]
    assert [each for each in needed if each.startswith("nvidia-ml-py")]
