"""The code of the notebook that documents the Python API."""

import json

from infra.settings import REPOSITORY

NOTEBOOK = REPOSITORY / "docs" / "python.ipynb"


def notebook_cells() -> list[str]:
    """The source of each cell of code, in order."""
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
