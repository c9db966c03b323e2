"""Text of others made harmless where people read it: on a terminal, in a log, in Markdown.

What a model, a user's program, a sender or a provider said is data. It never moves a cursor, sets a
title, turns the reading direction, or becomes a heading, a link or a picture.
"""

import logging
import re
import unicodedata

_SHOWN = "\n\t"
_HIDDEN = {"Cc", "Cs", "Zl", "Zp"}
"""Categories of Unicode: control characters, lone surrogates, separators of lines, paragraphs."""
_TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that turn the reading direction (Unicode Annex 9)."""
_MARKUP = re.compile(r"[\\`*_\[\]<>#!|~&$@]|(?<=www)\.|:(?=//)|^[-+=]")
"""What begins something in CommonMark or GitHub's Markdown, as does what follows."""
_NUMBER = re.compile(r"^(\d+)([.)])")


def visible(text: str) -> str:
    """The text with each character that a terminal would obey as its escape, e.g. \\x1b.

    Line breaks and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    obeyed = unicodedata.category(character) in _HIDDEN or character in _TURNING
    if obeyed and character not in _SHOWN:
        return ascii(character)[1:-1]
    return character


def plain(text: str) -> str:
    """The text for Markdown, as part of a line or in a cell of a table: it stays what it is."""
    return _NUMBER.sub(r"\1\\\2", _MARKUP.sub(r"\\\g<0>", _one_line(text)))


LOOK_NEXT = "## Where to look next"
"""Heading of the last part of a report: commands and files, as `code`, which a terminal leaves
unwrapped."""


def code(text: str) -> str:
    """The text for Markdown as code within a line, outside of tables; nothing in it ends that."""
    shown = _one_line(text) or "(empty)"
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def _one_line(text: str) -> str:
    """Only within one line can text begin no block."""
    return visible(" ".join(text.split()))


class Formatter(logging.Formatter):
    """Lines of a log, with their tracebacks, as `visible` shows them."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def log_lines(form: str) -> None:
    """Write warnings and errors of this process to standard error, each in this form."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter(form))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
