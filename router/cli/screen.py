"""What `glowl up` shows: a line per event, a spinner while something starts, the banner once all are ready.

In: the supervisor's `Event`s. Out: lines on a console.
"""

from __future__ import annotations

import shlex
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from router.cli import models
from router.cli.api import other_url
from router.cli.common import Language, to_command
from router.cli.samples import default_sample, load_samples
from router.cli.supervision import Event
from router.cli.texts import say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status


def banner(
    url: str,
    ui_url: str | None,
    choice: str,
    data_dir: Path,
    language: Language,
    *,
    needs_key: bool = False,
    has_metrics: bool = False,
) -> list[str]:
    """The lines shown once everything is ready; the examples can be copied as they stand."""
    is_pocket = choice == "pocket"
    question = say("up.banner.question.pocket" if is_pocket else "up.banner.question", language)
    body = f'{{"model":"glowl","messages":[{{"role":"user","content":"{question}"}}]}}'
    key = " -H 'Authorization: Bearer YOUR_KEY'" if needs_key else ""
    curl = f"curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d {shlex.quote(body)}"
    sample = default_sample(language)
    words = ("--sample", sample.name) if sample else (question,)
    ask = to_command("ask", *words, url=other_url(url), api_key="YOUR_KEY" if needs_key else None)
    lines = ["", say("up.banner", language, url=url, models=choice, data_dir=data_dir)]
    if ui_url is not None:
        lines.append(f"{say('up.banner.ui', language)} {ui_url}")
    if has_metrics:
        lines.append(f"{say('up.banner.metrics', language)} {url}/metrics")
    lines += [say("up.banner.try", language), f"  {curl}", f"  {ask}"]
    if is_pocket:
        # A photograph is what people try first, and these models know none.
        names = ", ".join(other.name for other in load_samples() if other != sample)
        lines.append(say("up.banner.pocket", language, samples=names))
    return [*lines, ""]


class Screen:
    """Draws events: plain lines always, and on a terminal a spinner naming what is still starting."""

    def __init__(
        self, console: Console, names: list[str], log_dir: Path, details: dict[str, str], language: Language
    ) -> None:
        self._console = console
        self._waiting = list(names)
        self._log_dir = log_dir
        self._details = details
        self._language = language
        self._status: Status | None = None

    def begin(self) -> None:
        """Show the spinner, on a terminal."""
        if self._console.is_terminal:
            self._status = self._console.status(self._waiting_text())
            self._status.start()

    def end(self) -> None:
        """Take the spinner away."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def line(self, text: str) -> None:
        """Print one line as it is: never wrapped, so that it can be copied, and never read as markup."""
        # stdout may be a file on a full disk: that must not end the service.
        with suppress(OSError):
            self._console.print(text, markup=False, soft_wrap=True)

    def show(self, event: Event) -> None:
        """Draw one event."""
        language = self._language
        values: dict[str, object] = {"name": event.name, "seconds": event.seconds, "log": event.log_path}
        if event.exit_code is not None:
            values["how"] = exit_text(event.exit_code, language)
        elif event.reason:
            values["how"] = say("up.unstartable", language, reason=event.reason)
        match event.kind:
            case "ready":
                detail = self._details.get(event.name, "")
                self.line(say("up.ready", language, detail=detail, **values).rstrip())
                self._now_waiting(without=event.name)
            case "hung":
                self.line(say("up.hung", language, **values))
            case "starting":
                self.line(say("up.starting", language, logs=self._log_dir, **values))
            case "died" | "gave_up":
                if event.said:
                    self.line(say(f"up.{event.kind}.said", language, said=event.said, **values))
                else:
                    self.line(say(f"up.{event.kind}", language, **values))
                    for line in event.log_tail:
                        self.line(f"    {line}")
                if event.kind == "gave_up":
                    self.line(say("up.gave_up.ends", language, name=event.name))
            case "all_ready":
                self.end()
            case "disk_low":
                self.line(say("up.disk_low", language, free_gb=event.free_bytes / models.GB, logs=self._log_dir))
            case "stopping" | "killing" | "stopped":
                self.end()
                self.line(say(f"up.{event.kind}", language))

    def _now_waiting(self, *, without: str) -> None:
        self._waiting = [name for name in self._waiting if name != without]
        if self._status is not None:
            self._status.update(self._waiting_text())

    def _waiting_text(self) -> str:
        return say("up.waiting", self._language, names=", ".join(self._waiting))


def exit_text(exit_code: int, language: Language) -> str:
    """``exit status 1`` or ``ended by SIGKILL``."""
    if exit_code >= 0:
        return say("up.exit", language, code=exit_code)
    name = str(-exit_code)
    with suppress(ValueError):
        name = signal.Signals(-exit_code).name
    return say("up.signal", language, signal=name)
