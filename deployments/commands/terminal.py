"""The only way of tables and reports to the terminal of people; lines go by `shared.say`.

Data never moves the cursor, sets a title or becomes markup of Rich; our own colours are `styled`.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markdown import Markdown, TableElement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from infra.inert import LOOK_NEXT, visible

CODE = re.compile(r"(`+) ?(.*?) ?\1$")
"""At the end of a line, as `infra.inert.code` writes it."""


class Terminal(Console):
    """A console for which text is text, whatever is in it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Before the layout: an escape is wider than what it stands for."""
        return super().render_str(visible(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Behind the layout: whatever it was made of."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)


class FoldedTable(TableElement):
    """A table whose words are broken where a column is narrow: none loses its end."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        for table in super().__rich_console__(console, options):
            assert isinstance(table, Table)
            for column in table.columns:
                column.overflow = "fold"
            yield table


class Report(Markdown):
    """Markdown whose tables are read whole."""

    elements = Markdown.elements | {"table_open": FoldedTable}


def styled(text: str, style: str) -> Text:
    """Text in a colour."""
    return Text(visible(text), style=style)


def markdown(text: str) -> Markdown:
    """A report, whose links are shown as addresses, since its text may be of others."""
    return Report(visible(text), hyperlinks=False)


def show_report(console: Console, text: str) -> None:
    """Print a report. Its last part, of commands and files, is left unwrapped, to be copied."""
    report, heading, places = text.partition(LOOK_NEXT)
    console.print(markdown(report), soft_wrap=False)
    if heading:
        lines = [LOOK_NEXT.lstrip("# "), *places.strip().splitlines()]
        shown = "\n".join(CODE.sub(r"\2", line) for line in lines)
        console.print(visible(shown), soft_wrap=True)
