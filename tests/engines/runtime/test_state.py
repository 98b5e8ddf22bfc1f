"""How long a GPU takes is told without waiting for it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from engines.runtime.state import DeviceTimer, is_lost  # noqa: E402


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
