"""Which variant is registered: the fastest that keeps enough quality, soon enough."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.markdown import Markdown

from infra.errors import InputError
from tasks.quantization.figures import Figures, best, figures
from tasks.quantization.inputs import require_enough
from tasks.quantization.parameters import Objective, QuantizationParameters
from tasks.quantization.report import QuantizationReport, markdown

REWARDS = [1.0, 1.2, 0.9, 1.1, 1.0, 1.3, 0.8, 1.0, 1.1]


def row(variant: str, answer: float = 0.1, tokens: int = 1000) -> dict[str, Any]:
    times = {"first_s": [answer / 2] * 70, "answer_s": [answer] * 70}
    size = {"memory": 10**9, "bytes": 10**6, "error": None}
    return {"variant": variant, "tokens": tokens, "seconds": 2.0} | times | size


def measured(objective: Objective, **given: tuple[dict[str, Any], float]) -> list[Figures]:
    """Of variants with these rows, each of whose rewards is this much less than the champion's."""
    made = [{"variant": name, "error": None} for name in given]
    rows = [row("champion", tokens=9000), *(one for one, _ in given.values())]
    lost = {name: [each - loss for each in REWARDS] for name, (_, loss) in given.items()}
    return figures(made, rows, {"champion": REWARDS} | lost, objective)


def test_the_fastest_that_holds_the_objective_is_the_best() -> None:
    objective = Objective(min_quality=0.9, max_latency_ms=200)
    found = measured(
        objective,
        int8=(row("int8", tokens=2000), 0.01),
        gptq=(row("gptq", tokens=3000), 0.5),
        awq=(row("awq", tokens=4000, answer=0.3), 0.0),
        fp8=(row("fp8", tokens=1000), 0.0),
    )
    missed = {one.variant: " ".join(one.missed) for one in found}
    assert "quality" in missed["gptq"] and "300 ms" in missed["awq"] and not missed["int8"]
    chosen = best(found)
    assert (
        chosen is not None and chosen.variant == "int8" and chosen.metrics()["throughput"] == 1000
    )


def test_what_cannot_be_made_or_served_is_told_and_never_the_best() -> None:
    made = [{"variant": "awq", "error": "no room"}, {"variant": "fp8", "error": None}]
    rows = [row("champion"), {"variant": "fp8", "bytes": 5, "error": "no kernel"}]
    found = figures(made, rows, {"champion": REWARDS}, Objective())
    assert best(found) is None
    assert [one.error for one in found] == [None, "not made: no room", "not served: no kernel"]
    report = QuantizationReport(
        run="r", model="mine", resumed=False, champion="3", registered=None, figures=found, files={}
    )
    text = markdown(report, QuantizationParameters())
    assert "| FP8 dynamic | – | – | not served: no kernel |" in text
    assert "nothing was registered" in text


def test_the_report_names_the_best_and_fits_a_terminal() -> None:
    found = measured(Objective(), int8=(row("int8"), 0.0), gptq=(row("gptq", tokens=3000), 0.0))
    report = QuantizationReport(
        run="r",
        model="mine",
        resumed=False,
        champion="3",
        registered="4",
        figures=found,
        files={"plot": "/home/variants.png"},
    )
    text = markdown(report, QuantizationParameters())
    assert "Version 4, GPTQ W4A16, is the fastest" in text and "`/home/variants.png`" in text
    screen = Console(width=80, file=StringIO())
    screen.print(Markdown(text))
    shown = screen.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "…" not in shown and "GPTQ W4A16" in shown and "first token, ms" in shown


def test_a_loss_that_cannot_be_ruled_out_is_too_much_also_where_rewards_are_negative() -> None:
    negative = [each - 3 for each in REWARDS]
    for loss, missed in ((0.01, False), (0.2, True)):
        rewards = {"champion": negative, "int8": [each - loss for each in negative]}
        made = [{"variant": "int8", "error": None}]
        found = figures(made, [row("champion"), row("int8")], rewards, Objective(min_quality=0.95))
        assert bool(found[1].missed) is missed


def test_few_prompts_tell_no_quality() -> None:
    rewards = {"champion": REWARDS[:7], "int8": REWARDS[:7]}
    made = [{"variant": "int8", "error": None}]
    found = figures(made, [row("champion"), row("int8")], rewards, Objective())
    assert best(found) is None and "8 are needed" in found[1].missed[0]


def test_too_few_held_out_prompts_are_refused_before_anything_is_spent(tmp_path: Path) -> None:
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("".join(f'{{"prompt": "{number}"}}\n' for number in range(7)))
    with pytest.raises(InputError, match="has 7 prompts"):
        require_enough(held_out)


@pytest.mark.parametrize(("count", "told"), [(63, False), (64, True)])
def test_a_percentile_needs_enough_requests(count: int, told: bool) -> None:
    one = row("champion") | {"answer_s": [0.1] * count}
    (found,) = figures([], [one], {"champion": REWARDS}, Objective())
    assert (found.answer_p90 is not None) is told
