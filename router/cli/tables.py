"""Tables and JSON on stdout, as every command prints them.

In: names of columns and rows, or an object. Out: text; wide lines for grep where stdout is no terminal.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from router.cli.common import Language
from router.cli.texts import say

if TYPE_CHECKING:
    from rich.table import Table


def make_table(language: Language, *columns: str) -> Table:
    """Return a table without rows; the columns are keys of texts."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        # An id that is cut cannot be typed.
        is_id = column.endswith(".id")
        table.add_column(say(column, language), no_wrap=is_id, overflow="ignore" if is_id else "fold")
    return table


def print_table(table: Table) -> None:
    """Print a table."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=200)  # for grep: one line per row
    console.print(table)


def print_json(value: Any) -> None:
    """Print an object in one line."""
    from engines.json_text import dump_line

    typer.echo(dump_line(value).decode())


def show_time(time_s: float) -> str:
    """Write unix seconds in the time of this machine."""
    return datetime.fromtimestamp(time_s).astimezone().isoformat(sep=" ", timespec="seconds")
