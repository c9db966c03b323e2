"""`nightshift doctor`: what is set up, what is missing, and how to mend it. It starts nothing.

A check returns what it found, or raises the error that a run would meet; `missing` is what is made
on first use or needed for some flows only, `broken` what keeps every run from working.
"""

import importlib.metadata
import json
import os
import re
import shutil
import sqlite3
import sys
import urllib.error
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import BaseModel
from rich.table import Table
from rich.text import Text

from deployments.catalogue import flow_names
from deployments.commands.shared import tell
from deployments.commands.tables import show_table
from deployments.commands.terminal import styled
from deployments.server import schedules
from deployments.server.services import online_workers
from deployments.webhooks import gateway
from infra import database, hooks, keeper, ledger, objects, private
from infra.compute import environments, local, reach
from infra.errors import (
    EnvironmentBuildError,
    NightshiftError,
    ServiceUnavailable,
    SettingsError,
    StorageFull,
)
from infra.hooks import secrets
from infra.services import prefect_server
from infra.services.prefect_server import POOL
from infra.settings import settings, unknown_variables

LEAST_GB, ENOUGH_GB = 2, 20
"""Free disk: what one small run needs, and what all job environments and a few runs need."""
ENABLED_CLOUDS = "SELECT value FROM config WHERE key LIKE 'enabled_clouds_%'"
"""As sky.global_user_state stores them; importing SkyPilot takes seconds."""
COLOURS = {"ok": "green", "missing": "yellow", "broken": "red"}


class Finding(BaseModel):
    """What one check found."""

    check: str
    state: Literal["ok", "missing", "broken"]
    message: str
    remedy: str = ""


Found = tuple[Literal["ok", "missing"], str, str]


def ok(message: str) -> Found:
    return "ok", message, ""


def missing(message: str, remedy: str) -> Found:
    return "missing", message, remedy


def check_python() -> Found:
    """The interpreter, and every package as infra/environments/control.txt pins it."""
    pinned = re.findall(
        r"^([\w.-]+)==([^\s;]+)", environments.requirements_of("control").read_text(), re.MULTILINE
    )
    wrong = []
    for name, version in pinned:
        try:
            present = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        if present != version:
            wrong.append(f"{name} {present} instead of {version}")
    if wrong:
        raise EnvironmentBuildError(", ".join(wrong[:5]), "`make setup` installs what is pinned.")
    return ok(f"{sys.version.split()[0]}, {len(pinned)} pinned packages")


def check_settings() -> Found:
    """Every NIGHTSHIFT_* variable exists and fits the others."""
    given = settings()
    gateway.check()
    if given.hooks_key:
        secrets.encrypt("probe")
    if given.s3_endpoint_url and not given.objects_uri.startswith("s3://"):
        raise SettingsError(
            "NIGHTSHIFT_S3_ENDPOINT_URL is set, but NIGHTSHIFT_OBJECTS is no s3:// URI",
            "Set NIGHTSHIFT_OBJECTS=s3://bucket/prefix, or unset the endpoint.",
        )
    if unknown := unknown_variables():
        return missing(", ".join(unknown), "docs/settings.md lists them.")
    mine = sorted(name for name in os.environ if name.startswith("NIGHTSHIFT_"))
    return ok(", ".join(mine) or "all at their defaults")


def check_disk() -> Found:
    """Room for environments, checkpoints and objects, in a folder that may be written."""
    home = settings().home
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        why = "cannot be written" if there.is_dir() else "is no folder"
        raise StorageFull(f"{there} {why}", "Let NIGHTSHIFT_HOME name another folder.")
    free = shutil.disk_usage(there).free / 1e9
    if free < LEAST_GB:
        raise StorageFull(
            f"{free:.1f} GB are free in {there}, a run needs {LEAST_GB}",
            "Free some, or let NIGHTSHIFT_HOME name a folder on a larger disk.",
        )
    if free < ENOUGH_GB:
        return missing(f"{free:.1f} GB free in {there}", f"{ENOUGH_GB} are comfortable.")
    return ok(f"{free:,.0f} GB free in {there}")


def check_walls() -> Found:
    """Who may read the home folder, and what jobs on this machine may."""
    home = settings().home
    if private.is_open(home):
        return missing(
            f"other users may look into {home}", f"chmod 700 {home}, which belongs to another user."
        )
    if not reach.is_walled():
        why = reach.unavailable() or "NIGHTSHIFT_LOCAL_SANDBOX is off"
        return missing(
            f"jobs and their reward functions run as you without a sandbox: {why}",
            "They read what you can: docs/security.md says what to do.",
        )
    network = "a" if settings().local_network else "no"
    return ok(f"nobody else reads {home}; jobs have a sandbox with {network} network")


def check_environments() -> Found:
    """The job environments that flows run their programs in."""
    names = environments.job_environments()
    unmade = [name for name in names if environments.made(name) is None]
    if unmade:
        return missing(
            f"not made yet: {', '.join(unmade)}", "The first run that needs one makes it."
        )
    return ok(f"{' and '.join(names)} are made")


def check_database() -> Found:
    """PostgreSQL; an embedded one that does not run is started by the first command."""
    if not _database_runs():
        return missing("the embedded PostgreSQL does not run", "The first command starts it.")
    version = database.server_version()
    database.check_version(version)
    where = "embedded" if settings().database_url is None else "NIGHTSHIFT_DATABASE_URL"
    return ok(f"PostgreSQL {version // 10000}.{version % 10000} ({where})")


def check_objects() -> Found:
    """The object store takes, gives back and guards what is written."""
    objects.check_writable(settings().objects_uri)
    return ok(settings().objects_uri)


def check_prefect() -> Found:
    """The Prefect server, with a deployment of every flow and a worker."""
    try:
        prefect_server.find()
    except ServiceUnavailable:
        return missing("no Prefect server runs", "`nightshift up` runs one, `run` does by itself.")
    api = os.environ["PREFECT_API_URL"]
    try:
        version = prefect_server.ask("admin/version")
        there = {one["name"] for one in _deployments()}
        workers = online_workers() if there else []
    except OSError as error:
        raise prefect_server.unanswered(error) from None
    ours = importlib.metadata.version("prefect")
    if version.split(".")[:2] != ours.split(".")[:2]:
        raise ServiceUnavailable(
            f"the Prefect server at {api} has version {version}, we have {ours}",
            f"Run a server of version {ours}.",
        )
    if absent := sorted(set(flow_names()) - there):
        return missing(f"no deployment of {', '.join(absent)}", "`nightshift up` makes them.")
    if not workers:
        return missing(f"no worker takes runs of the pool {POOL}", "`nightshift up` runs one.")
    return ok(f"{version} at {api}, {len(there)} deployments and a worker")


def check_schedules() -> Found:
    """What the schedules on the server cost at most, those that are off too."""
    if not os.environ.get("PREFECT_API_URL"):
        return missing("not read: no Prefect server runs", "`nightshift up` runs one.")
    try:
        there = _deployments()
    except OSError as error:
        raise prefect_server.unanswered(error) from None
    found = [cost for one in there for cost in schedules.costs(one)]
    return ok("; ".join(map(str, found)) or "none that costs money")


def check_notifications() -> Found:
    """The Prefect blocks that NIGHTSHIFT_NOTIFICATIONS names."""
    if not settings().notifications:
        return missing("nobody is told of warnings", "Name blocks in NIGHTSHIFT_NOTIFICATIONS.")
    if not os.environ.get("PREFECT_API_URL"):
        return missing("not checked: no Prefect server runs", "`nightshift up` runs one.")
    for block in settings().notifications:
        kind, _, name = block.partition("/")
        try:
            prefect_server.ask(f"block_types/slug/{kind}/block_documents/name/{name}")
        except urllib.error.HTTPError:
            return missing(
                f"NIGHTSHIFT_NOTIFICATIONS: the Prefect server has no block {block}",
                "Make it in the Prefect UI under Blocks, then `nightshift up` again.",
            )
        except OSError as error:
            raise prefect_server.unanswered(error) from None
    return ok(", ".join(settings().notifications))


def check_gateway() -> Found:
    """The webhook gateway of `nightshift up`, and the hooks, whose secrets our key must open."""
    if _database_runs() and (wrong := hooks.read(database.pool())[1]):
        why = next(iter(wrong.values()))
        return missing(f"{', '.join(wrong)}: {why.message}", why.remedy)
    address = keeper.address(gateway.Gateway(settings().home / "gateway"))
    if not address:
        return missing("it does not run", "`nightshift up` runs it; only webhooks need it.")
    return ok(f"{address['url']}/hooks/")


def check_budget() -> Found:
    """What may be spent now."""
    if not _database_runs():
        return missing("not read: the database does not run", "`nightshift budget show` reads it.")
    budgets = [one for one in ledger.budgets(database.pool()) if one.scope == "project"]
    left = min(one.remaining for one in budgets)
    if left <= 0:
        return missing("nothing is left", "`nightshift budget show` tells when it resets.")
    return ok(f"{left:,.2f} dollars are left")


def check_gpus() -> Found:
    """GPUs of this machine; jobs without --accelerators run on its CPUs."""
    seen, said = local.gpu_models(), settings().local_gpus
    if said is not None and said > len(seen):
        raise SettingsError(
            f"NIGHTSHIFT_LOCAL_GPUS={said}, but nvidia-smi shows {len(seen)}",
            "Correct or unset NIGHTSHIFT_LOCAL_GPUS, or mend the driver.",
        )
    memory = psutil.virtual_memory().total / 2**30
    return ok(f"{', '.join(seen) or 'no GPU'}; {os.cpu_count()} cores, {memory:.0f} GiB")


def check_sky() -> Found:
    """Clouds that SkyPilot last found enabled, read from its state; no cloud is asked."""
    state = Path.home() / ".sky" / "state.db"
    clouds: list[str] = []
    if state.is_file():
        with closing(sqlite3.connect(f"file:{state}?mode=ro", uri=True)) as connection:
            rows = connection.execute(ENABLED_CLOUDS).fetchall()
        clouds = sorted({cloud for (value,) in rows for cloud in json.loads(value)})
    if not clouds:
        return missing("no cloud is enabled", "`sky check` sets one up; --target sky needs it.")
    if not settings().objects_uri.startswith("s3://"):
        return missing(
            f"{', '.join(clouds)}, but NIGHTSHIFT_OBJECTS is on this machine",
            "Set NIGHTSHIFT_OBJECTS=s3://bucket/prefix for --target sky.",
        )
    return ok(", ".join(clouds))


CHECKS: dict[str, Callable[[], Found]] = {
    "Python": check_python,
    "settings": check_settings,
    "disk": check_disk,
    "walls": check_walls,
    "job environments": check_environments,
    "database": check_database,
    "object store": check_objects,
    "Prefect": check_prefect,
    "schedules": check_schedules,
    "notifications": check_notifications,
    "webhooks": check_gateway,
    "budget": check_budget,
    "this machine": check_gpus,
    "SkyPilot": check_sky,
}


def examine() -> tuple[list[Finding], int]:
    """What every check finds, and the exit code of the first that is broken, else 0."""
    _deployments.cache_clear()
    findings, code = [], 0
    for name, check in CHECKS.items():
        try:
            state, message, remedy = check()
        except NightshiftError as error:
            state, message, remedy = "broken", error.message, error.remedy
            code = code or error.exit_code
        findings.append(Finding(check=name, state=state, message=message, remedy=remedy))
    return findings, code


def show(as_json: bool) -> None:
    """Print the findings; ends with an exit code other than 0 if something is broken."""
    findings, code = examine()
    if as_json:
        tell([one.model_dump() for one in findings])
    else:
        table = Table(box=None, pad_edge=False)
        for column in ("check", "state", "what is there"):
            table.add_column(column, overflow="fold")
        for one in findings:
            told = styled(one.message, "")
            if one.remedy:
                told = Text.assemble(told, "\n", styled(f"→ {one.remedy}", "dim"))
            table.add_row(one.check, styled(one.state, COLOURS[one.state]), told)
        show_table(table)
    if code:
        raise SystemExit(code)


@cache
def _deployments() -> list[dict[str, Any]]:
    """Those of the server, which two checks look at. Raises OSError."""
    return prefect_server.deployments(flow_names())


def _database_runs() -> bool:
    return settings().database_url is not None or bool(keeper.address(database.embedded()))
