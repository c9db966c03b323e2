"""Proxies that the environment names: for hosts elsewhere, never for this machine's services."""

import os


def named() -> list[str]:
    """The variables that send this process's requests through a proxy."""
    names = ("http_proxy", "https_proxy", "all_proxy")
    return [name for low in names for name in (low, low.upper()) if os.environ.get(name)]


def reach_loopback() -> None:
    """Let this process and its children reach the services of this machine past any proxy."""
    if named():
        given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        there = [one for one in given.split(",") if one.strip()]
        past = ",".join(dict.fromkeys([*there, "127.0.0.1", "localhost", "::1"]))
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = past
