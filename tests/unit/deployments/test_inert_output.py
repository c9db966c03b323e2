"""Whatever is stored or said by others, no command obeys it: every one that shows data is asked."""

import contextlib
import io
import logging
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from deployments import cli
from deployments.commands import compare, doctor, start, tables, terminal
from deployments.commands.terminal import Terminal
from deployments.server import services
from infra import database, hooks, ledger
from infra.compute import jobs
from infra.errors import InputError
from infra.hooks import deliveries
from infra.inert import LOOK_NEXT, code, plain, visible
from infra.ledger.records import Budget, DailyCharge, Holder
from infra.models import registry
from infra.models.verdicts import Verdict
from infra.records import messages, readings, runs
from infra.settings import REPOSITORY
from tasks.champions.report import Report, Score, markdown
from tasks.dpo import feedback
from tasks.runs import offers

NOW = datetime(2026, 11, 28, tzinfo=UTC)
HOSTILE = st.lists(
    st.sampled_from(["[/x]", "[link=file:///etc]y[/link]", "[red]", ":skull:", "\x1b]0;title\x07"])
    | st.text(st.sampled_from("\x1b\x9b\x7f\r\b\t\n\0\u202e\u2028[]/\\`#|<a é漢"), max_size=6),
    min_size=1,
    max_size=4,
).map("".join)
PLAIN = {
    *("bullet_list_open", "bullet_list_close", "list_item_open", "list_item_close", "inline"),
    *("paragraph_open", "paragraph_close", "text", "text_special"),
    *(f"{part}_{end}" for part in ("table", "thead", "tbody", "tr", "th", "td")
      for end in ("open", "close")),
}  # fmt: skip
"""Types of a list with one line and a table with one cell."""
Patch = Callable[[pytest.MonkeyPatch, str], None]


def returns(place: Any, name: str, value: Callable[[str], Any]) -> Patch:
    return lambda patch, text: patch.setattr(place, name, lambda *_, **__: value(text))


def several(*patches: Patch) -> Patch:
    def apply(patch: pytest.MonkeyPatch, text: str) -> None:
        for one in patches:
            one(patch, text)

    return apply


def budget(text: str) -> Budget:
    return Budget.model_construct(
        scope=text, period=text, limit=Decimal(3), charged=Decimal(1), reserved=Decimal(1),
        remaining=Decimal(1), resets_at=None, timezone="UTC",
        holders=[Holder.model_construct(key=text, amount=Decimal(1))],
    )  # fmt: skip


def ran(text: str) -> runs.RunRecord:
    return runs.RunRecord(
        id=text, flow=text, name=text, state="finished", error=text, begun_at=NOW, ended_at=NOW,
        report={"files": {"markdown": text}},
    )  # fmt: skip


def raising(text: str) -> Any:
    raise InputError(text, text)


def quoted(text: str) -> Any:
    """An offer whose provider names its machines as it likes."""
    said = {"region": text, "instance_type": text, "spot": False, "hourly_usd": "1"}
    said |= {"priced_at": None, "source": text}
    return [SimpleNamespace(model_dump=lambda **_: dict(said))]


def two_versions(patch: pytest.MonkeyPatch, text: str) -> None:
    """Of a hostile name, measure, prompt and answer."""
    version = registry.ModelVersion.model_construct(model=text, kind=text, flow_run=None)
    patch.setattr(registry, "named", lambda one: version.model_copy(update={"version": one}))
    answers = {text: {"completion": text, "reward": 1.0, "success": 0.0, "length": 2.0}}
    score = {"name": text, "candidate": 1.0, "gain": 0.1, "low": 0.0, "high": 0.2}
    patch.setattr(compare, "_side", lambda _, one, __: compare.Side(one, [score], answers))


DATA: dict[str, Patch] = {
    "budget show": several(
        returns(ledger, "budgets", lambda t: [budget(t)]),
        returns(ledger, "history", lambda t: [DailyCharge.model_construct(
            day=NOW.date(), flow=t, charged=Decimal(1))]),
        returns(jobs, "charged_by_provider", lambda t: [(t, Decimal(1))]),
    ),
    "quote": several(
        returns(ledger, "budgets", lambda t: [budget(t).model_copy(update={"scope": "project"})]),
        returns(offers, "offers", quoted),
        returns(offers, "price", lambda _: Decimal(1)),
    ),
    "jobs list": several(
        returns(jobs, "newest", lambda t: [SimpleNamespace(
            key=t, state=t, launcher=t, created_at=NOW, error=t)]),
        returns(tables, "reservations", lambda _: []),
    ),
    "jobs logs x": several(
        returns(jobs, "find_one", lambda t: SimpleNamespace(key=t, launcher="local")),
        returns(offers, "launchers", lambda t: {"local": SimpleNamespace(
            attempts=lambda _: [1], logs=lambda *_: iter([t]))}),
    ),
    "jobs stop x": returns(jobs, "find_one", raising),
    "runs list": several(
        returns(runs, "newest", lambda t: [ran(t)]),
        returns(jobs, "of_run", lambda _: []),
    ),
    "runs show x": several(
        returns(runs, "find_one", ran),
        returns(jobs, "of_run", lambda _: []),
    ),
    "models list": several(
        returns(registry, "models", lambda t: [t]),
        returns(registry, "versions", lambda t: [registry.ModelVersion.model_construct(
            model=t, version=t, aliases=[t], parent=t, metrics={t: 1.0}, flow_run=t)]),
        returns(tables.runs, "held_out", lambda t: {
            t: (t, [{"name": t, "candidate": 1.0, "gain": 0.1}])}),
    ),
    "models compare a b": two_versions,
    "hooks list": returns(hooks, "newest", lambda t: [
        {"name": t, "form": t, "flows": [t], "deliveries": 1, "last_delivery": NOW}]),
    "hooks deliveries": several(
        returns(hooks, "newest", lambda _: []),
        returns(deliveries, "newest", lambda t: [
            {"id": uuid4(), "hook": t, "flow": t, "received_at": NOW, "state": t,
             "flow_run": None, "error": t}]),
    ),
    "mqtt messages": several(
        returns(messages, "newest", lambda t: [
            {"received_at": NOW, "topic": t, "state": t, "payload": t, "error": t}]),
        returns(messages, "count", lambda t: {t: 1}),
    ),
    "mqtt readings": returns(readings, "summary", lambda t: [
        {"model": t, "building": t, "described": True, "first": NOW, "newest": NOW, "hours": 1,
         "refused": t}]),
    "doctor": returns(doctor, "examine", lambda t: (
        [doctor.Finding(check=t, state="ok", message=t, remedy=t)], 0)),
    "status": returns(services, "status", lambda t: [
        {"service": t, "running": True, "where": t}]),
    f"feedback import {__file__}": returns(feedback, "read", raising),
    "run nightly-ppo --plan": several(
        returns(start, "capability", lambda t: SimpleNamespace(
            plan=lambda _: [SimpleNamespace(
                step=t, environment=t, launcher=t, resources=t, max_hours=1.0,
                hourly_usd=Decimal(1), usd_a_window=Decimal(1),
                model_dump=lambda **_: {"step": t})])),
        returns(start, "usd_at_most", lambda _: Decimal(1)),
    ),
}  # fmt: skip


def obeyed(text: str) -> set[str]:
    """What of an output a terminal would do."""
    turning = "\u202e\u2066"
    return {
        one
        for one in text
        if one in turning or (unicodedata.category(one) in {"Cc", "Cs", "Zl"} and one not in "\n\t")
    }


def said_by(patch: pytest.MonkeyPatch, *words: str, stream: io.TextIOWrapper | None = None) -> str:
    """All that `nightshift` writes with these words, to both streams."""
    stream = stream or io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    for name, value in (("argv", ["nightshift", *words]), ("stdout", stream), ("stderr", stream)):
        patch.setattr(sys, name, value)
    patch.setattr(sys, "excepthook", sys.excepthook)
    patch.setattr(cli, "PREFECT_DEFAULTS", {})
    patch.setattr(cli.proxies, "reach_loopback", lambda: None)
    with contextlib.suppress(SystemExit):
        cli.main()
    stream.flush()
    return stream.buffer.getvalue().decode(stream.encoding)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("command", DATA)
@settings(max_examples=5, deadline=None)
@given(text=HOSTILE)
def test_no_command_obeys_data(command: str, text: str) -> None:
    for as_json in ([], ["--json"]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(database, "pool", lambda: None)
            DATA[command](patch, text)
            said = said_by(patch, *command.split(), *as_json)
            assert said and not obeyed(said), said


def test_markup_in_an_error_is_shown_as_it_is() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "pool", lambda: None)
        patch.setenv("COLUMNS", "200")
        DATA["hooks deliveries"](patch, "[/x] \x1b[2J")
        assert r"[/x] \x1b[2J" in said_by(patch, "hooks", "deliveries")


def test_a_traceback_quotes_and_obeys_nothing() -> None:
    program = (
        "from deployments.commands.shared import prepare; prepare(); raise ValueError('\\x1b[2J')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=REPOSITORY)
    assert rb"ValueError: \x1b[2J" in done.stderr and b"\x1b" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_of_another_encoding_gets_what_it_has(encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "pool", lambda: None)
        DATA["budget show"](patch, "漢")
        said = said_by(patch, "budget", "show", stream=stream)
    assert "Budgets in dollars" in said and r"\u6f22" in said and "##==" in said


def parsed(text: str) -> list[Token]:
    """What a reader of GitHub's Markdown takes it for, blocks and what is in their lines."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    return [one for token in tokens for one in (token, *(token.children or []))]


BLOCKS = r"(#+|[0-9]+[.)]|[-+*>]|```|!\[x\]\(//y\)|<b>|www\.x\.y) ?x?"


@settings(max_examples=60, deadline=None)
@given(text=HOSTILE | st.text() | st.from_regex(BLOCKS))
def test_text_in_a_report_is_text(text: str) -> None:
    told = visible(" ".join(text.split()))
    (shown,) = [one for one in parsed(f"- {code(text)}\n") if one.type == "code_inline"]
    assert shown.content.strip() == (told or "(empty)").strip()
    cell = plain(text)
    kinds = {one.type for one in parsed(f"- {cell}\n\n| a |\n|---|\n| {cell} |\n")}
    assert kinds <= PLAIN, kinds - PLAIN
    item = parsed(f"- {cell}\n")
    assert "".join(one.content for one in item if one.type.startswith("text")) == told


@pytest.mark.parametrize("answer", ["a\n\n![x](https://e.com/p.png)", "a\n```\n![x](//e.com)\n"])
def test_an_answer_does_not_leave_its_report(answer: str) -> None:
    """A blank line ended the code of the answer, and its picture was loaded."""
    score = Score(name="reward", champion=0, candidate=1, gain=1, low=1, high=1)
    verdict = Verdict(promote=True, checks=[], gain=1, confidence_interval=(1, 1))
    report = Report(
        run="r", model="m", resumed=False, collected={}, scores=[score], verdict=verdict,
        champion="1", candidate="2", served_from=None, costs=[], look_next={},
        examples=[(answer, answer, answer)],
    )  # fmt: skip
    kinds = [one.type for one in parsed(markdown(report))]
    assert "image" not in kinds and "fence" not in kinds and kinds.count("code_inline") == 3


@settings(max_examples=25, deadline=None)
@given(text=HOSTILE)
def test_a_report_and_the_lines_of_a_run_obey_nothing(text: str) -> None:
    stream = io.StringIO()
    Terminal(file=stream, width=60).print(terminal.markdown(f"# {text}\n\n- {text}\n"))
    with pytest.MonkeyPatch.context() as patch:
        logger = logging.Logger("nightshift")
        patch.setattr(sys, "stderr", stream)
        patch.setattr(logging, "getLogger", lambda _: logger)
        start._prepare_logging()
        logger.warning("a step failed: %s", text)
    assert "a step failed" in stream.getvalue() and not obeyed(stream.getvalue())


def test_a_table_stays_whole_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    table = tables.make_table("Budgets", "name", "price of")
    table.add_row("n" * 200, "NIGHTSHIFT_LOCAL_USD_PER_HOUR " * 9)
    tables.show_table(table)
    assert f"{'n' * 200}  {'NIGHTSHIFT_LOCAL_USD_PER_HOUR ' * 9}" in capsys.readouterr().out


def test_a_line_of_a_run_stays_whole_in_a_file() -> None:
    stream, words = io.StringIO(), "word " * 50 + "end"
    with pytest.MonkeyPatch.context() as patch:
        logger = logging.Logger("nightshift")
        patch.setattr(sys, "stderr", stream)
        patch.setattr(logging, "getLogger", lambda _: logger)
        start._prepare_logging()
        logger.warning(words)
    assert re.fullmatch(rf"\d\d:\d\d:\d\d {words}\n", stream.getvalue())


@pytest.mark.parametrize("there", [True, False])
def test_a_second_up_says_that_it_is_up(there: bool) -> None:
    told = {"ui": "http://127.0.0.1:4200", "gateway": "http://127.0.0.1:8180/hooks/", "home": "/h"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "present", lambda: [Path("1.lock")] if there else [])
        patch.setattr(services, "detach", lambda: told)
        patch.setattr(start.interruption, "install", lambda: None)
        said = said_by(patch, "up", "--detach")
    assert told["ui"] in said and ("It was up already." in said) == there


def test_a_report_ends_with_commands_to_copy() -> None:
    command = "nightshift run nightly-ppo --config '/a b/" + "c" * 90 + "/config.yaml'"
    odd = "echo `date`"
    text = f"# mine\n\nSo be it.\n\n{LOOK_NEXT}\n\n- again: {code(command)}\n- odd: {code(odd)}\n"
    stream = io.StringIO()
    terminal.show_report(Terminal(file=stream, width=60), text)
    assert f"- again: {command}\n- odd: {odd}\n" in stream.getvalue()


def test_words_of_a_reports_table_are_broken_and_none_loses_its_end():
    stream = io.StringIO()
    text = "| figure | value |\n|---|---|\n| search_eight_bits_recall_at_10 | 1 |\n"
    Terminal(file=stream, width=20).print(terminal.markdown(text))
    written = "".join(stream.getvalue().split())
    assert "…" not in written and "at_10" in written
