"""The lab's S3 server: moto's, that denies every write while the file LAB_DENIAL is there.

python -m tests.cloud.bucket -H 127.0.0.1 -p PORT
"""

import os
from pathlib import Path
from typing import Any

from moto import server

ANSWER = b"<Error><Code>AccessDenied</Code><Message>denied by a test</Message></Error>"


class Denying(server.DomainDispatcherApplication):
    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        writes = environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE")
        if writes and Path(os.environ["LAB_DENIAL"]).exists():
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [ANSWER]
        return super().__call__(environ, start_response)


if __name__ == "__main__":
    server.DomainDispatcherApplication = Denying
    server.main()
