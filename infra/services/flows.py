"""Which flows there are; nothing heavy is imported."""

from pathlib import Path

FLOWS = Path(__file__).resolve().parents[2] / "flows"


def flow_names() -> list[str]:
    """One flow a file of flows/."""
    return sorted(
        path.stem.replace("_", "-") for path in FLOWS.glob("*.py") if path.stem != "__init__"
    )
