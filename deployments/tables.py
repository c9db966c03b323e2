"""What the commands `budget`, `jobs` and `models` print: a table for people, or JSON."""

import json
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.table import Table

from infra import database, jobs, ledger, registry
from infra.errors import InputError
from infra.settings import settings

Row = dict[str, Any]
console = Console()


def _print(rows: list[Row], columns: dict[str, Callable[[Row], str]], title: str) -> None:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(show(row) for show in columns.values()))
    console.print(table if rows else f"[dim]{title}: none yet[/dim]")


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, default=str)
    sys.stdout.write("\n")
