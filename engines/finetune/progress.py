"""How a run gets on: step, loss and the time that is left.

In: Trainer's events. Out: one line on standard error for each point of the curve.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Progress(TrainerCallback):
    """Writes the lines."""

    def __init__(self) -> None:
        self._began_at = 0.0
        self._first = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl | None:
        """Note where the run begins, which is not step 0 for one that goes on."""
        self._began_at, self._first = time.monotonic(), state.global_step
        if state.global_step and state.is_world_process_zero:
            print(f"going on from step {state.global_step} of {state.max_steps}", file=sys.stderr, flush=True)
        return None

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> TrainerControl | None:
        """Say how far it is."""
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return None
        done = state.global_step - self._first
        left_s = (time.monotonic() - self._began_at) / max(done, 1) * (state.max_steps - state.global_step)
        filled = 20 * state.global_step // max(state.max_steps, 1)
        print(
            f"[{'#' * filled}{'.' * (20 - filled)}] step {state.global_step}/{state.max_steps}  "
            f"loss {float(logs['loss']):.4f}  {_in_words(left_s)} left",
            file=sys.stderr,
            flush=True,
        )
        return None


def _in_words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
