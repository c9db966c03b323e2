"""Programs of Debian packages that tests run against: installed where root may, else skipped."""

import os
import shutil
import subprocess

import pytest

PATH = f"{os.environ['PATH']}:/usr/sbin"


def program(name: str, package: str) -> str:
    """Path of a program."""
    if (found := shutil.which(name, path=PATH)) is None:
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            pytest.skip(f"{name} is not here, and only root can install Debian's {package}")
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update", "-qq"], install):
            done = subprocess.run(command, capture_output=True, text=True, env=quiet)
            if done.returncode:
                pytest.skip(f"Debian's {package} is not to be had: {done.stderr.strip()[-200:]}")
        found = shutil.which(name, path=PATH)
    assert found is not None
    return found
