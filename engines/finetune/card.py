"""What is written beside an adapter: a card for people, its curve as a picture, and both as JSON.

In: a finished run. Out: ``README.md``, ``loss.svg`` and ``finetune.json`` in the adapter's folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.finetune.accuracy import Accuracy
from engines.finetune.settings import FinetuneSettings

REPORT = "finetune.json"
_WIDTH, _HEIGHT, _MARGIN = 640, 320, 48


@dataclass(frozen=True, slots=True)
class Report:
    """A finished run.

    Attributes:
        engine: ``glm`` or ``owl2``.
        base: folder or hub id.
        base_revision: of its weights, and how they were loaded.
        data: SHA-256 of the data set.
        num_examples: trained on.
        num_left_out: too long.
        num_shared: pictures both trained on and judged on.
        settings: of the run.
        curve: of the loss.
        before: accuracy of the base on held-out examples; None if none were asked.
        after: with the adapter.
        seconds: that this process trained; a run that went on counts from there.
    """

    engine: str
    base: str
    base_revision: str
    data: str
    num_examples: int
    num_left_out: int
    num_shared: int
    settings: FinetuneSettings
    curve: Sequence[Mapping[str, float]]
    before: Accuracy | None
    after: Accuracy | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        names = ("engine", "base", "base_revision", "data", "num_examples", "num_left_out", "num_shared", "seconds")
        return {name: getattr(self, name) for name in names} | {
            "settings": self.settings.to_dict(),
            "curve": [dict(point) for point in self.curve],
            "before": self.before.to_dict() if self.before else None,
            "after": self.after.to_dict() if self.after else None,
        }


def write_card(out: Path, report: Report) -> None:
    """Write all three files; the JSON last, since its presence says that the run is finished."""
    (out / "README.md").write_text(to_markdown(report), "utf-8")
    (out / "loss.svg").write_text(to_svg(report.curve), "utf-8")
    (out / REPORT).write_text(json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n", "utf-8")


def to_markdown(report: Report) -> str:
    """Write the card."""
    lines = [
        "---",
        f"base_model: {json.dumps(report.base)}",
        "library_name: peft",
        "---",
        "",
        f"# A LoRA adapter for {report.engine}",
        "",
        "| | |",
        "|---|---|",
        f"| base | `{report.base}`, revision `{report.base_revision}` |",
        f"| data set | SHA-256 `{report.data}` |",
        f"| examples | {report.num_examples}; {report.num_left_out} left out as too long |",
        f"| trained for | {report.seconds:.0f} s |",
        "",
        "![loss](loss.svg)",
        "",
    ]
    if report.before and report.after:
        lines += [
            f"## Held-out examples: {report.after.num}",
            "",
            "| right answers | before | after |",
            "|---|---|---|",
            f"| all | {report.before.whole:.3f} | {report.after.whole:.3f} |",
        ]
        for title in ("slices", "kinds", "fields"):
            was, now = getattr(report.before, title), getattr(report.after, title)
            lines += [f"| {title[:-1]} {name} | {was[name]:.3f} | {now[name]:.3f} |" for name in now]
        if report.num_shared:
            lines += [
                "",
                f"{report.num_shared} pictures are in both parts of the data set: these numbers are too good.",
            ]
        lines += ["", "Whether that is a gain, `glowl eval` and `glowl promote` say with an interval.", ""]
    lines += ["## Settings", "", "```json", json.dumps(report.settings.to_dict(), indent=1), "```", ""]
    return "\n".join(lines)


def to_svg(curve: Sequence[Mapping[str, float]]) -> str:
    """Draw the loss over the steps."""
    losses = [point["loss"] for point in curve] or [0.0]
    top, last = max(*losses, 1e-9), max([point["step"] for point in curve], default=1) or 1
    wide, high = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN
    points = " ".join(
        f"{_MARGIN + wide * point['step'] / last:.1f},{_HEIGHT - _MARGIN - high * point['loss'] / top:.1f}"
        for point in curve
    )
    bottom = _HEIGHT - _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="loss">'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
        f'<path d="M{_MARGIN} {_MARGIN}V{bottom}H{_WIDTH - _MARGIN}" fill="none" stroke="#888"/>'
        f'<polyline points="{points}" fill="none" stroke="#2563eb" stroke-width="2"/>'
        f'<g font-family="sans-serif" font-size="12" fill="#333">'
        f'<text x="{_MARGIN - 6}" y="{_MARGIN + 4}" text-anchor="end">{top:.2f}</text>'
        f'<text x="{_MARGIN - 6}" y="{bottom}" text-anchor="end">0</text>'
        f'<text x="{_WIDTH - _MARGIN}" y="{bottom + 18}" text-anchor="end">step {last:.0f}</text>'
        f'<text x="{_WIDTH // 2}" y="{_MARGIN - 16}" text-anchor="middle">loss of the answers\' tokens</text>'
        "</g></svg>\n"
    )
