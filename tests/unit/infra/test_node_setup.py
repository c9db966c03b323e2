"""What a rented node runs before the job: uv as it is pinned, and no secret in sight."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from infra.compute.sky.task import PASSED_ON, SETUP
from infra.compute.uv import ENVIRONMENTS

PINNED = re.findall(r"^uv==([\d.]+)", (ENVIRONMENTS / "uv.txt").read_text(), re.MULTILINE)[0]


@pytest.mark.parametrize(
    ("there", "installs"), [(PINNED, False), ("0.1.2", True), (f"{PINNED}0", True)]
)
def test_uv_is_the_pinned_one_and_sees_no_secret(
    there: str, installs: bool, tmp_path: Path
) -> None:
    (tmp_path / "nightshift" / "infra" / "environments").mkdir(parents=True)
    files = tmp_path / "nightshift" / "infra" / "environments"
    (files / "uv.txt").write_text((ENVIRONMENTS / "uv.txt").read_text())
    programs = tmp_path / ".local" / "bin"
    programs.mkdir(parents=True)
    for name in ("uv", "python3"):
        (programs / name).write_text(
            f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/asked; env >> {tmp_path}/seen\n'
            f'[ "$1" = --version ] && echo "uv {there} (a platform)"\nexit 0\n'
        )
        (programs / name).chmod(0o755)
    secrets = dict.fromkeys(PASSED_ON, "a secret")
    script = SETUP.format(environment="node", secrets=" ".join(PASSED_ON))
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | secrets
    subprocess.run(["bash", "-c", script], check=True, env=environment)
    asked = (tmp_path / "asked").read_text()
    wanted = "pip install --quiet --user --require-hashes --requirement infra/environments/uv.txt"
    assert (f"python3 -m {wanted}" in asked) == installs
    assert "--requirements infra/environments/node.txt" in asked
    assert "a secret" not in (tmp_path / "seen").read_text()
