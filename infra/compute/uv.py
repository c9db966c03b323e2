"""uv, told where pip finds its packages; standard library only, since `make` begins with it.

    python3.11 infra/compute/uv.py .venv/bin/python infra/environments/control.txt
    python3.11 infra/compute/uv.py serve                 (prints the options of an environment only)

uv does not read pip's configuration, so a company's mirror that is set up for pip, or a folder of
wheels, is handed over to uv here. So are the packages that an environment shall not have although
others ask for them: NAME.excludes.
"""

import ast
import shlex
import subprocess
import sys
from pathlib import Path

ENVIRONMENTS = Path(__file__).resolve().parent.parent / "environments"
PIP_TO_UV = {
    "index-url": "--index-url",
    "extra-index-url": "--extra-index-url",
    "find-links": "--find-links",
    "trusted-host": "--allow-insecure-host",
}


def index_options() -> list[str]:
    """pip's index settings, from its files and environment variables, as options of uv."""
    settings: dict[str, str] = {}
    listed = [line.partition("=") for line in _pip_config().splitlines()]
    for section in ("global.", "install.", ":env:."):  # pip's precedence, the last one wins
        for name, _, value in listed:
            if name.startswith(section):
                settings[name.removeprefix(section)] = ast.literal_eval(value)
    # What pip does with several indexes. No index can put another file in a pinned one's place: uv
    # compares every hash in the file, which all but torch have.
    options = ["--index-strategy", "unsafe-best-match"]
    for pip_name, uv_name in PIP_TO_UV.items():
        for value in settings.get(pip_name, "").split():
            options += [uv_name, value]
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        options.append("--no-index")
    return options


def _pip_config() -> str:
    """What `pip config list` says; an environment that uv made has no pip, its base Python does."""
    for python in (sys.executable, str(Path(sys.base_exec_prefix) / "bin" / "python3")):
        command = [python, "-m", "pip", "config", "list"]
        listed = subprocess.run(command, capture_output=True, text=True)
        if listed.returncode == 0:
            return listed.stdout
    return ""


def options(requirements: Path) -> list[str]:
    """What uv is told for the environment of a file: the indexes, and what it does without."""
    excludes = requirements.with_suffix(".excludes")
    return index_options() + (["--excludes", str(excludes)] if excludes.exists() else [])


def install_command(uv: str, python: str, requirements: Path) -> list[str]:
    """The command that makes the environment of `python` hold `requirements`."""
    return [uv, "pip", "install", "--quiet", "--python", python] + [
        *options(requirements),
        "--requirements",
        str(requirements),
    ]


def bootstrap(python: str, requirements: Path) -> None:
    """Install uv itself into the environment of `python`, and with it the requirements."""
    pinned = ["--require-hashes", "--requirement", str(ENVIRONMENTS / "uv.txt")]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *pinned], check=True)
    print(f"installing {requirements.name} ...", file=sys.stderr, flush=True)
    uv = str(Path(python).parent / "uv")
    command = install_command(uv, python, requirements)
    subprocess.run([*command, "--compile-bytecode"], check=True)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(shlex.join(options(ENVIRONMENTS / f"{sys.argv[1]}.txt")))
        sys.exit()
    try:
        bootstrap(sys.argv[1], Path(sys.argv[2]))
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
