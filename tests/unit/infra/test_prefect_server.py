"""Which Prefect server is the home folder's own."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from infra.services.prefect_server import PrefectServer, _basic


@pytest.mark.parametrize("same", [True, False])
def test_a_server_of_another_home_on_the_same_port_is_not_ours(tmp_path: Path, same: bool) -> None:
    server = PrefectServer(tmp_path)
    known = _basic(server.password() if same else "nightshift:another")

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            health = self.path == "/api/health"  # asks nobody for a password
            self.send_response(200 if health or self.headers["Authorization"] == known else 401)
            self.end_headers()
            self.wfile.write(b"true")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as there:
        threading.Thread(target=there.serve_forever, daemon=True).start()
        server.port = there.server_port
        address = server.address()
        there.shutdown()
    assert (address is not None) == same
