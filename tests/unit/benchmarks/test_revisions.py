"""Revisions by name, by date and by the last run, in worktrees that go again."""

import os
import subprocess

import pytest

from infra.errors import InputError
from tasks.benchmarks import revisions


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "project"
    (folder / "benchmarks").mkdir(parents=True)

    def git(*arguments, day="2026-03-01"):
        when = {f"GIT_{who}_DATE": f"{day}T12:00:00+00:00" for who in ("AUTHOR", "COMMITTER")}
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(
            ["git", "-C", str(folder), *who, *arguments],
            env=os.environ | when,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    git("init", "--quiet", "--initial-branch=main")
    for number, day in enumerate(("2026-03-01", "2026-03-05")):
        (folder / "product.py").write_text(f"NUMBER = {number}\n")
        (folder / "benchmarks" / "figures.py").write_text(f"# yardstick {number}\n")
        git("add", "--all", day=day)
        git("commit", "--quiet", "--message", f"number {number}", day=day)
    return folder


def commits(repository):
    listed = subprocess.run(
        ["git", "-C", str(repository), "rev-list", "main"], capture_output=True, text=True
    )
    return listed.stdout.split()


def test_a_revision_by_name_by_date_and_by_the_last_run(repository):
    newest, oldest = commits(repository)
    assert revisions.find(None, None, repository) == revisions.Revisions(now=newest, then=None)
    for against in ("HEAD~1", oldest[:9], "2026-03-04"):
        assert revisions.find(against, None, repository).then == oldest, against
    assert revisions.find("2026-03-05", None, repository).then == newest
    assert revisions.find("last", oldest, repository).then == oldest


@pytest.mark.parametrize(
    "against", ["no-such", "--all", "2020-01-01", "2026-13-99", "HEAD:product.py"]
)
def test_what_is_no_revision_is_refused(repository, against):
    with pytest.raises(InputError, match=r"--against .*no such revision"):
        revisions.find(against, None, repository)


def test_last_needs_a_run_whose_tree_a_commit_holds(repository):
    with pytest.raises(InputError, match="no run was whole yet"):
        revisions.find("last", None, repository)
    (repository / "product.py").write_text("NUMBER = 7\n")
    changed = revisions.current(repository)
    assert changed.startswith(commits(repository)[0] + "-")
    with pytest.raises(InputError, match="in no commit"):
        revisions.find("last", changed, repository)
    (repository / "product.py").write_text("NUMBER = 8\n")
    assert revisions.current(repository) != changed


def test_a_folder_without_git_is_told(tmp_path):
    with pytest.raises(InputError, match="no git checkout"):
        revisions.current(tmp_path)


def test_the_other_tree_has_its_product_and_our_yardstick_and_goes(repository, tmp_path):
    given = revisions.find("HEAD~1", None, repository)
    place = tmp_path / "then"
    with revisions.trees(given, place, repository) as sides:
        assert sides == {"now": str(repository), "then": str(place)}
        assert (place / "product.py").read_text() == "NUMBER = 0\n"
        assert (place / "benchmarks" / "figures.py").read_text() == "# yardstick 1\n"
    assert not place.exists()
    listed = subprocess.run(
        ["git", "-C", str(repository), "worktree", "list"], capture_output=True, text=True
    )
    assert len(listed.stdout.splitlines()) == 1


def test_the_tree_of_a_killed_run_is_taken_up_whole_or_made_anew(repository, tmp_path):
    given, place = revisions.find("HEAD~1", None, repository), tmp_path / "then"
    (place / "half").mkdir(parents=True)  # killed while it was made
    with revisions.trees(given, place, repository):
        assert not (place / "half").exists()
        (place / "used").touch()
        with revisions.trees(given, place, repository):  # killed later, and taken up
            assert (place / "used").exists()
