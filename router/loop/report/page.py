"""One HTML page that shows the numbers of a report, with plots, and loads nothing.

In: `Numbers`, and small pictures of what is shown. Out: HTML. Everything that a client or a model wrote is escaped.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from PIL import Image, ImageOps

from router.loop.records import Exchange
from router.loop.report.numbers import PERCENTILES, Numbers, Prices
from router.loop.store import Kept

_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c1c22;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}table{border-collapse:collapse}
td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}td.n{text-align:right}
svg text{font:12px system-ui,sans-serif;fill:#1c1c22}
.case{border-top:1px solid #ddd;padding:.7rem 0;display:flex;gap:1rem}
.case img{max-width:160px;max-height:160px}.case p{margin:.1rem 0;white-space:pre-wrap;overflow-wrap:anywhere}
.k{color:#666}
"""
_WIDTH, _ROW, _LABEL, _BAR = 640, 22, 260, 300
_THUMB_PX: Final = 160
_MAX_CHARS: Final = 600


def to_html(numbers: Numbers, pictures: Mapping[str, Kept], prices: Prices | None = None) -> str:
    """Return the page.

    Args:
        numbers: to show.
        pictures: by SHA-256; those whose files are kept are shown small.
        prices: that the cost was counted at.
    """
    first, last = (time.strftime("%Y-%m-%d", time.gmtime(at)) for at in (numbers.first_at, numbers.last_at))
    share = f"{numbers.num_disagreed / numbers.num_compared:.0%}" if numbers.num_compared else "-"
    facts = [
        ("answers", f"{numbers.num_exchanges:,}"),
        ("from, to", f"{first}, {last}"),
        ("with both models' answers", f"{numbers.num_compared:,}"),
        ("of these, disagreeing", f"{numbers.num_disagreed:,} ({share})"),
        ("tokens read, written", f"{numbers.prompt_tokens:,}, {numbers.completion_tokens:,}"),
    ]
    if numbers.hosted_cost is not None and prices is not None:
        at = f"{prices.per_million_in:g} in, {prices.per_million_out:g} out, per million tokens"
        facts.append(("the same tokens of a hosted API", f"{numbers.hosted_cost:,.2f} (at {at})"))
    parts = [
        "<h1>Glowl report</h1>",
        _table(facts),
        _plot("Routes and engines", numbers.routes),
        _plot("Rules that decided", numbers.rules),
        _plot("Languages", numbers.languages),
        _plot("How it ended", numbers.states),
        _plot("Errors", numbers.errors),
        _plot("Thumbs", numbers.ratings),
        _plot("Kinds of pictures", numbers.picture_kinds),
        _plot("Sizes of pictures", numbers.picture_sizes),
        _plot("Agreement of draft and deep answer, from", dict(sorted(numbers.agreements.items()))),
        _plot("What is asked most", dict(numbers.patterns)),
        _latencies(numbers),
        _gallery("Where the models disagree most", numbers.disagreements, pictures),
        _gallery("Failures, and answers that got a thumb down", numbers.failures, pictures),
    ]
    head = f'<meta charset="utf-8"><title>Glowl report</title><style>{_STYLE}</style>'
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    return f'<!doctype html><html lang="en"><head>{meta}{head}</head><body>{"".join(parts)}</body></html>\n'


def bars(counts: Mapping[str, int]) -> str:
    """Return horizontal bars as SVG, in the order given."""
    most = max(counts.values(), default=1)
    rows = []
    for place, (name, count) in enumerate(counts.items()):
        y, width = place * _ROW, max(_BAR * count / most, 1)
        shown = name if len(name) <= 34 else f"{name[:33]}…"
        rows.append(
            f'<text x="0" y="{y + 15}">{escape(shown)}<title>{escape(name)}</title></text>'
            f'<rect x="{_LABEL}" y="{y + 3}" width="{width:.1f}" height="{_ROW - 6}" fill="#4667d8"/>'
            f'<text x="{_LABEL + width + 6:.1f}" y="{y + 15}">{count:,}</text>'
        )
    height = _ROW * len(counts)
    return f'<svg role="img" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}">{"".join(rows)}</svg>'


def _plot(title: str, counts: Mapping[str, int]) -> str:
    if not counts:
        return ""
    is_ordered = title.startswith(("Agreement", "What"))
    shown = counts if is_ordered else dict(sorted(counts.items(), key=lambda each: (-each[1], each[0])))
    return f"<h2>{escape(title)}</h2>{bars(shown)}"


def _latencies(numbers: Numbers) -> str:
    if not numbers.latencies_s:
        return ""
    head = "".join(f"<th>p{percent}</th>" for percent in PERCENTILES)
    rows = "".join(
        f"<tr><td>{escape(route)}</td>{''.join(f'<td class=n>{value:.2f} s</td>' for value in values)}</tr>"
        for route, values in numbers.latencies_s.items()
    )
    return f"<h2>Time to the final answer</h2><table><tr><th>route</th>{head}</tr>{rows}</table>"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return f"<table>{''.join(f'<tr><td>{escape(a)}</td><td>{escape(b)}</td></tr>' for a, b in rows)}</table>"


def _gallery(title: str, exchanges: Sequence[Exchange], pictures: Mapping[str, Kept]) -> str:
    if not exchanges:
        return ""
    return f"<h2>{escape(title)}</h2>{''.join(_case(each, pictures) for each in exchanges)}"


def _case(exchange: Exchange, pictures: Mapping[str, Kept]) -> str:
    images = "".join(_thumb(pictures[sha256]) for sha256 in exchange.pictures[:2] if sha256 in pictures)
    said = exchange.feedback
    correction = "" if said is None or said.correction is None else str(said.correction)
    lines = [
        ("asked", exchange.question),
        ("GLM", exchange.draft),
        ("Owl2", exchange.deep),
        ("final", exchange.final),
        ("right", correction),
        ("error", exchange.error),
        ("agreement", "" if exchange.agreement is None else f"{exchange.agreement:.2f}"),
        ("id", exchange.id),
    ]
    text = "".join(
        f'<p><span class="k">{name}</span> {escape(value[:_MAX_CHARS])}</p>' for name, value in lines if value
    )
    return f'<div class="case"><div>{images}</div><div>{text}</div></div>'


def _thumb(kept: Kept) -> str:
    """Return a small copy of a picture; nothing if it is not kept or cannot be read."""
    if kept.file is None:
        return ""
    try:
        with Image.open(kept.file) as picture:
            picture.draft("RGB", (_THUMB_PX, _THUMB_PX))
            small = ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""
    small.thumbnail((_THUMB_PX, _THUMB_PX))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=70)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'
