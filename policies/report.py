"""What is measured, for people. In: results, or two presets and questions. Out: Markdown tables, a bar chart, an SVG.

The tables read as well in a terminal as in a file.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from policies.decide import decide
from policies.decision import Decision
from policies.evaluate import Row, evaluate_hops, evaluate_language, evaluate_pictures
from policies.features import Question, measure
from policies.rules import Rules

_BAR_WIDTH: Final = 40
# In the order they are drawn: fast, then the ways of going deep.
_WAYS: Final = ("fast", "deep, glm thinking", "deep, glm", "deep, owl2", "deep, panel")
_COLOURS: Final = {
    "fast": "#2f7ed8",
    "deep, glm thinking": "#8bbc21",
    "deep, glm": "#c5d86d",
    "deep, owl2": "#910000",
    "deep, panel": "#f28f43",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One question that two presets decide differently."""

    text: str
    before: Decision
    after: Decision


@dataclass(frozen=True, slots=True)
class Mix:
    """How two presets send the same questions.

    Attributes:
        names: of the presets.
        num_questions: how many.
        before: questions per way, of the first preset.
        after: of the second.
        changes: the questions that go another way, in the order of the file.
    """

    names: tuple[str, str]
    num_questions: int
    before: Counter[str]
    after: Counter[str]
    changes: tuple[Change, ...]


def evaluation_tables(rows: Sequence[Row], threshold: float) -> str:
    """Measure rows and print what they hold: multi-hop, language, several pictures; empty parts are left out.

    Args:
        rows: in the shape of the evaluation files; any mix.
        threshold: of the multi-hop score.
    """
    parts = []
    hops = evaluate_hops([row for row in rows if row.get("label_hops") is not None], threshold)
    if hops:
        parts.append(
            f"Multi-hop, threshold {threshold:g} (95% interval by resampling groups; length = characters alone; "
            "controlled = among texts of like length)\n\n"
            + _table(
                ("language", "source", "labels", "rows", "AUROC", "95%", "length", "controlled", "recall",
                 "false alarms", "us"),
                [
                    (
                        result.language, result.source, result.kind, str(result.num_rows), _share(result.auroc),
                        f"{_share(result.low)}-{_share(result.high)}" if result.source != "mean" else "",
                        _share(result.length_auroc), _share(result.controlled_auroc), _share(result.recall, 2),
                        _share(result.false_alarms, 2), f"{result.microseconds:.0f}",
                    )
                    for result in hops
                ],
            )
        )  # fmt: skip
    for title, results in (
        ("Language, share told right", evaluate_language(rows)),
        (
            "Several pictures in the wording, share told right (of `one`, the rest are false alarms)",
            evaluate_pictures(rows),
        ),
    ):
        if results:
            parts.append(
                f"{title}\n\n"
                + _table(
                    ("label", "", "source", "rows", "right", "us"),
                    [
                        (
                            result.label, result.detail, result.source, str(result.num_rows), _share(result.rate, 4),
                            f"{result.microseconds:.0f}",
                        )
                        for result in results
                    ],
                )
            )  # fmt: skip
    return "\n\n".join(parts)


def compare(first: Rules, second: Rules, rows: Iterable[Row]) -> Mix:
    """Decide every question with two presets.

    Args:
        first: one preset.
        second: the other.
        rows: with `text`; `n_images` (default 0) different pictures are taken to come with it.
    """
    before, after = Counter[str](), Counter[str]()
    changes, num_questions = [], 0
    for row in rows:
        keys = tuple(f"picture-{number}" for number in range(int(row.get("n_images") or 0)))
        features = measure(Question(row["text"], image_keys=keys))
        old, new = decide(features, first), decide(features, second)
        before[_way(old)] += 1
        after[_way(new)] += 1
        num_questions += 1
        if _way(old) != _way(new):
            changes.append(Change(row["text"], old, new))
    return Mix((first.name, second.name), num_questions, before, after, tuple(changes))


def draw_bars(mix: Mix) -> str:
    """Draw the route mix of two presets for a terminal."""
    width = max(len(name) for name in (*_WAYS, *mix.names))
    lines = []
    for name, counts in zip(mix.names, (mix.before, mix.after), strict=True):
        lines.append(f"{name} ({mix.num_questions} questions)")
        for way in _WAYS:
            if mix.before[way] or mix.after[way]:
                share = counts[way] / mix.num_questions
                bar = "█" * round(share * _BAR_WIDTH)
                lines.append(f"  {way:<{width}} {bar:<{_BAR_WIDTH}} {share:>6.1%} {counts[way]:>7}")
    return "\n".join(lines)


def draw_svg(mix: Mix) -> str:
    """Draw the route mix of two presets as one stacked bar each."""
    left, width, height, gap, top = 140, 560, 34, 16, 20
    ways = [way for way in _WAYS if mix.before[way] or mix.after[way]]
    parts = []
    for index, (name, counts) in enumerate(zip(mix.names, (mix.before, mix.after), strict=True)):
        y = top + index * (height + gap)
        parts.append(f'<text x="{left - 10}" y="{y + height / 2 + 5:g}" text-anchor="end">{escape(name)}</text>')
        x = float(left)
        for way in ways:
            share = counts[way] / mix.num_questions
            if not share:
                continue
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{share * width:.1f}" height="{height}" fill="{_COLOURS[way]}">'
                f"<title>{escape(way)}: {counts[way]} ({share:.1%})</title></rect>"
            )
            if share >= 0.08:
                parts.append(
                    f'<text x="{x + share * width / 2:.1f}" y="{y + height / 2 + 5:g}" text-anchor="middle" '
                    f'fill="#fff">{share:.0%}</text>'
                )
            x += share * width
    y = top + 2 * (height + gap) + 4
    for index, way in enumerate(ways):
        x = left + index * 140
        parts.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{_COLOURS[way]}"/>')
        parts.append(f'<text x="{x + 18}" y="{y + 11}">{escape(way)}</text>')
    full_width, full_height = left + max(width, 140 * len(ways)) + 20, y + 30
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{full_width}" height="{full_height}" '
        f'viewBox="0 0 {full_width} {full_height}" font-family="sans-serif" font-size="13" role="img" '
        f'aria-label="Route mix of {escape(mix.names[0])} and {escape(mix.names[1])}">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _way(decision: Decision) -> str:
    if decision.route == "fast":
        return "fast"
    if decision.panel:
        return "deep, panel"
    if decision.engine == "glm":
        return "deep, glm thinking" if decision.enable_thinking else "deep, glm"
    return "deep, owl2"


def _share(value: float, digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join((line(head), rule, *(line(row) for row in rows)))
