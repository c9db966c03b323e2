"""`nightshift init`: files of one's own to begin with, which a first night takes as they are."""

import shlex
import shutil
import sys
from pathlib import Path

from deployments.commands.shared import say, tell
from infra.errors import InputError, StorageFull

EXAMPLE = Path(__file__).resolve().parents[1] / "example"


def write(folder: Path, as_json: bool) -> None:
    """Copy the example into `folder`, which is made where it is not there.

    Raises InputError where one of its files is there, before any is written.
    """
    files = sorted(path for path in EXAMPLE.iterdir() if path.is_file())
    if folder.exists() and not folder.is_dir():
        raise InputError(f"FOLDER: {folder} is no folder", "Name another one.")
    if there := [path.name for path in files if (folder / path.name).exists()]:
        raise InputError(
            f"FOLDER: {', '.join(there)} in {folder} would be overwritten",
            "Name another folder, or move what is there.",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in files:
            with path.open("rb") as source, (folder / path.name).open("xb") as target:
                shutil.copyfileobj(source, target)
    except OSError as error:
        raise StorageFull(f"FOLDER: {folder}: {error.strerror}", "Name another folder.") from error
    enter = [] if folder.resolve() == Path.cwd() else [f"cd {shlex.quote(str(folder))}"]
    ours = "nightshift" if shutil.which("nightshift") else str(Path(sys.argv[0]).resolve())
    night = f"{shlex.quote(ours)} run nightly-ppo --config night.yaml --plan"
    then = [*enter, "python3 -m unittest", night]
    if as_json:
        tell({"folder": str(folder), "files": [path.name for path in files], "next": then})
        return
    say(f"In {folder} there are now:")
    say("  prompts.jsonl    what your model is asked, a line each")
    say("  rewards.py       how good an answer is; test_rewards.py tries it")
    say("  night.yaml       what a night is told; name your model in it")
    say("Next:")
    for line in then:
        say(f"  {line}")
    say("Without --plan the night begins.")
