"""Reports where people look for them: as artifacts of the flow run in the Prefect UI."""

import base64
from pathlib import Path

from prefect.artifacts import create_image_artifact, create_markdown_artifact


def show(key: str, text: str, plots: dict[str, Path]) -> None:
    """Publish Markdown under `key`, and PNG files each under its own key."""
    create_markdown_artifact(key=key, markdown=text)
    for name, path in plots.items():
        image = base64.b64encode(path.read_bytes()).decode()
        create_image_artifact(image_url=f"data:image/png;base64,{image}", key=name)
