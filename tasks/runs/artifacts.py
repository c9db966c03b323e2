"""Reports where people look for them: as artifacts of the flow run in the Prefect UI."""

import base64
import re
from pathlib import Path

from prefect.artifacts import create_markdown_artifact


def show(key: str, text: str, plots: dict[str, Path]) -> None:
    """Publish Markdown under `key`, with PNG files by name at its end."""
    for name, path in plots.items():
        image = base64.b64encode(path.read_bytes()).decode()
        text += f"\n![{name}](data:image/png;base64,{image})\n"
    create_markdown_artifact(key=key, markdown=text)


def without_plots(text: str) -> str:
    """The Markdown that `show` was given."""
    return re.sub(r"\n!\[[^\]]*\]\(data:image/png;base64,[^)]*\)\n", "", text)
