"""The files of the page, from memory."""

import hashlib
from pathlib import Path

from common.errors import NotFoundError
from opsd.web.server import Reply, Request

DIRECTORY = Path(__file__).parent.parent / "page"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


class Assets:
    """All files of one directory, read once."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        self._files = {
            f"/{path.name}": path.read_bytes() for path in directory.iterdir() if path.suffix in KINDS
        }
        self._tags = {
            name: f'"{hashlib.sha256(body).hexdigest()[:16]}"' for name, body in self._files.items()
        }

    def reply(self, request: Request) -> Reply:
        """One file; browsers keep it, and ask whether it is still the same."""
        name = "/index.html" if request.path == "/" else request.path
        body = self._files.get(name)
        if body is None:
            raise NotFoundError(f"{name[:200]}: there is no such page")
        headers = {"ETag": self._tags[name], "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == self._tags[name]:
            return Reply(status=304, kind=KINDS[Path(name).suffix], headers=headers)
        return Reply(body=body, kind=KINDS[Path(name).suffix], headers=headers)
