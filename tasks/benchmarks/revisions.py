"""Which source trees are measured: this one, and another revision in a git worktree of its own."""

import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from infra.errors import InputError
from infra.settings import REPOSITORY

LAST = "last"
YARDSTICK = "benchmarks"
"""The folder that measures: both trees have today's, so that only what is measured differs."""


class Revisions(BaseModel):
    """`now`: the commit of this tree, with a mark of what it has that no commit holds; `then`: the
    commit that it is held against, if any."""

    model_config = ConfigDict(frozen=True)

    now: str
    then: str | None


def find(against: str | None, last: str | None, repository: Path = REPOSITORY) -> Revisions:
    """The revisions that `--against` means; `last` is that of the last whole run.

    Raises InputError naming the option where there is no such revision.
    """
    now = current(repository)
    if against is None:
        return Revisions(now=now, then=None)
    if against == LAST:
        if last is None:
            raise _refused(against, "no run was whole yet", "Run it without --against first.")
        if "-" in last:
            raise _refused(
                against,
                "the last run measured changes that were in no commit",
                "Name a revision, e.g. --against HEAD.",
            )
        against = last
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", against):
            date.fromisoformat(against)  # git takes any digits for some date
            until = f"--before={against}T23:59:59+00:00"
            then = _git(repository, "rev-list", "-1", until, "HEAD")
        else:
            wanted = f"{against}^{{commit}}"
            then = _git(repository, "rev-parse", "--verify", "--end-of-options", wanted)
    except (subprocess.CalledProcessError, ValueError):
        then = ""
    if not then:
        raise _refused(
            against,
            "git knows no such revision here",
            "Give a commit, a branch, a tag, a date like 2026-11-01, or last.",
        )
    return Revisions(now=now, then=then)


def current(repository: Path = REPOSITORY) -> str:
    """The commit of the tree, and after a hyphen a mark of its changes. Raises InputError without
    git."""
    try:
        commit = _git(repository, "rev-parse", "HEAD")
        changes = _git(repository, "status", "--porcelain", "--untracked-files=all")
        content = _git(repository, "diff", "HEAD")
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(
            f"{repository} is no git checkout that can be read: {error}",
            "Benchmarks tell which revision they measured: run them in a clone of the project.",
        ) from None
    if not changes:
        return commit
    return f"{commit}-{hashlib.sha256((changes + content).encode()).hexdigest()[:8]}"


@contextmanager
def trees(
    revisions: Revisions, place: Path, repository: Path = REPOSITORY
) -> Iterator[dict[str, str]]:
    """Folder of each side: `now`, and `then` in a worktree at `place`, gone afterwards."""
    sides = {"now": str(repository)}
    if revisions.then is None:
        yield sides
        return
    ready = place / ".git.measured"
    try:
        if not ready.exists():  # else a killed run has made it, whose job may be at it still
            _remove(repository, place)
            _git(repository, "worktree", "add", "--force", "--detach", str(place), revisions.then)
            shutil.rmtree(place / YARDSTICK, ignore_errors=True)
            shutil.copytree(repository / YARDSTICK, place / YARDSTICK)
            ready.touch()
        yield sides | {"then": str(place)}
    finally:
        _remove(repository, place)


def _remove(repository: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    _git(repository, "worktree", "prune")


def _git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _refused(against: str, why: str, remedy: str) -> InputError:
    return InputError(f"--against {against}: {why}", remedy)
