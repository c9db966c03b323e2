"""Argilla's exports, of version 1 and 2, as jobs.dpo.shapes reads them. No torch here."""

import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any

from jobs.dpo.compared import UNTOLD
from jobs.dpo.messages import LeftOut

Row = dict[str, Any]


def ready(row: Row) -> Iterator[Row]:
    yield {
        "prompt": row["instruction"],
        "chosen": row["chosen_response"],
        "rejected": row["rejected_response"],
    }


def votes(row: Row) -> Iterator[Row]:
    """A vote of each user: the name of the better response, or a ranking of them."""
    fields = row["fields"] if isinstance(row.get("fields"), dict) else row
    answers = _responses(fields)
    prompt = next((fields[n] for n in ("prompt", "instruction") if n in fields), None)
    count = 0
    for value, user in _votes(row):
        places = _places(value, answers)
        for first, second in combinations(places, 2):
            if places[first] == places[second]:
                continue
            better, worse = sorted((first, second), key=lambda name: places[name])
            count += 1
            yield {
                "prompt": prompt,
                "chosen": answers[better],
                "rejected": answers[worse],
                "source": "comparison",
                "user": user,
            }
    if not count:
        raise LeftOut(UNTOLD)


def _responses(fields: Row) -> Row:
    found = {n: v for n, v in fields.items() if re.fullmatch(r"(response|generation)[-_]?\d+", n)}
    return {_plain(name): value for name, value in found.items()}


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())


def _votes(row: Row) -> Iterator[tuple[Any, Any]]:
    """(value, user) of each vote that was submitted, as version 1 or 2 of Argilla exports it."""
    found = row.get("preference")
    if isinstance(row.get("responses"), dict):
        found = row["responses"].get("preference")
    if "preference.responses" in row:
        values = row["preference.responses"] or []
        users = row.get("preference.responses.users") or [None] * len(values)
        states = row.get("preference.responses.status") or ["submitted"] * len(values)
        rows = zip(values, users, states, strict=True)
        found = [{"value": v, "user_id": u, "status": s} for v, u, s in rows]
    for vote in found or []:
        if vote.get("status", "submitted") == "submitted":
            yield vote["value"], vote.get("user_id")


def _places(value: Any, answers: Row) -> dict[str, int]:
    """Response → its place, from a ranking in either form, or from the name of the better one."""
    if isinstance(value, str):
        value = [value, *(name for name in answers if name != _plain(value))]
        ranked = {_plain(name): min(place, 1) for place, name in enumerate(value)}
    elif isinstance(value, dict):
        ranked = dict(zip(map(_plain, value["value"]), value["rank"], strict=True))
    elif all(isinstance(one, dict) for one in value):
        ranked = {_plain(one["value"]): one["rank"] for one in value}
    else:
        ranked = {_plain(name): place for place, name in enumerate(value)}
    if unknown := set(ranked) - set(answers):
        raise ValueError(f"a vote is for {min(unknown)!r}, which is no response of the row")
    return ranked


def is_votes(row: Row) -> bool:
    fields = row["fields"] if isinstance(row.get("fields"), dict) else row
    return len(_responses(fields)) > 1 and bool(
        {"preference", "preference.responses", "responses"} & set(row)
    )
