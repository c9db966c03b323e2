"""A job of `jobs/` that a benchmark runs in its own process."""

import json
from pathlib import Path
from typing import Any

from infra.objects import put


def make_job(folder: Path, name: str, config: dict[str, Any], **inputs: Path) -> Path:
    """A job's folder."""
    place = folder / name
    place.mkdir()
    stored = (folder / "objects").as_uri()
    spec = {
        "name": "ppo.train",
        "environment": "train",
        "config": config,
        "inputs": {
            key: put(path, f"{stored}/{name}/inputs/{key}").uri for key, path in inputs.items()
        },
        "output": f"{stored}/{name}",
        "max_hours": 1,
        "key": name,
    }
    (place / "spec.json").write_text(json.dumps(spec))
    return place
