"""How a run ends that trained no model: with a notice."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from infra.contract import Artifact
from infra.records import runs
from tasks.runs.artifacts import show
from tasks.runs.run import Work


class Notice(BaseModel):
    """How a run ended that trained nothing: with a dataset, or with nothing to learn."""

    run: str
    model: str
    resumed: bool
    nothing_to_learn: bool
    dataset: Artifact | None
    files: dict[str, str]


def end_with_notice(
    work: Work[Any],
    text: str,
    dataset: Artifact | None = None,
    plots: dict[str, Path] | None = None,
    nothing: bool = False,
) -> Notice:
    """End a run that trained no model, with a Markdown text and PNG `plots` for people."""
    path = work.folder / "report.md"
    path.write_text(text, "utf-8")
    notice = Notice(
        run=work.run.id,
        model=work.parameters.name,
        resumed=work.run.resumed,
        nothing_to_learn=nothing,
        dataset=dataset,
        files={"markdown": str(path)} | {name: str(file) for name, file in (plots or {}).items()},
    )
    show(work.run.flow, text, plots or {})
    runs.end(work.pool, work.run, "finished", notice.model_dump(mode="json"))
    return notice
