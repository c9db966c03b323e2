"""What is shown in the UI is told in a terminal without its pictures."""

from pathlib import Path

import pytest

from tasks.runs import artifacts


def test_plots_are_for_the_ui_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(
        artifacts, "create_markdown_artifact", lambda **given: shown.append(given["markdown"])
    )
    plot = tmp_path / "plot.png"
    plot.write_bytes(bytes(range(256)))
    text = "# A report\n\n![not a plot](https://example.com/a.png)\n"
    artifacts.show("report", text, {"spending": plot, "curve": plot})
    assert shown[0].count("base64") == 2
    assert artifacts.without_plots(shown[0]) == text
