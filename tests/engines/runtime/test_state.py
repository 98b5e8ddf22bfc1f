"""How long a GPU takes is told without waiting for it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from engines.runtime.state import DeviceTimer  # noqa: E402


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
