"""What is told of a service that cannot start."""

import socket
from pathlib import Path

import pytest

from deployments.gateway import Gateway
from infra import keeper
from infra.errors import ServiceUnavailable
from infra.settings import settings


def test_only_lines_of_this_start_are_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "gateway"
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("a refusal of yesterday\n")
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setenv("NIGHTSHIFT_GATEWAY_PORT", str(other.getsockname()[1]))
        settings.cache_clear()
        service = Gateway(folder)
        with pytest.raises(ServiceUnavailable) as caught:
            keeper.use(service)
    keeper.leave(service)
    said = caught.value.message
    assert "yesterday" not in said and "Address already in use" in said
