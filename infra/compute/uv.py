"""uv, told where pip finds its packages; standard library only, since `make` begins with it.

    python3.11 infra/compute/uv.py .venv/bin/python infra/environments/control.txt
    python3.11 infra/compute/uv.py                       (prints the options only)

uv does not read pip's configuration, so a company's mirror that is set up for pip, or a folder of
wheels, is handed over to uv here.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

ENVIRONMENTS = Path(__file__).resolve().parent.parent / "environments"
PIP_TO_UV = {
    "index-url": "--index-url",
    "extra-index-url": "--extra-index-url",
    "find-links": "--find-links",
}


def index_options() -> list[str]:
    """pip's index settings, from its files and environment variables, as options of uv."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True
    ).stdout
    settings: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        if name.startswith((":env:.", "global.", "install.")):
            key = name.rpartition(".")[2]
            if name.startswith(":env:.") or key not in settings:
                settings[key] = shlex.split(value)[0]
    options = ["--index-strategy", "unsafe-best-match"]  # what pip does with several indexes
    for pip_name, uv_name in PIP_TO_UV.items():
        for value in settings.get(pip_name, "").split():
            options += [uv_name, value]
    return options


def install_command(uv: str, python: str, requirements: Path) -> list[str]:
    """The command that makes the environment of `python` hold `requirements`, byte-compiled."""
    return [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python] + [
        *index_options(),
        "--requirements",
        str(requirements),
    ]


def bootstrap(python: str, requirements: Path) -> None:
    """Install uv itself into the environment of `python`, and with it the requirements."""
    pinned = re.search(r"^uv==\S+", (ENVIRONMENTS / "control.txt").read_text(), re.MULTILINE)
    if pinned is None:
        sys.exit("infra/environments/control.txt does not pin uv")
    subprocess.run([python, "-m", "pip", "install", "--quiet", pinned[0]], check=True)
    print(f"installing {requirements.name} ...", file=sys.stderr, flush=True)
    uv = str(Path(python).parent / "uv")
    subprocess.run(install_command(uv, python, requirements), check=True)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(shlex.join(index_options()))
        sys.exit()
    try:
        bootstrap(sys.argv[1], Path(sys.argv[2]))
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
