"""Who may ask: by the name that the browser used, and by the token."""

import hmac
import ipaddress
import secrets
from collections.abc import Iterable
from pathlib import Path

from common.errors import PermissionDeniedError
from common.sys.files import replace_file
from opsd.web.server import Request

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer. No script and no style but our own files: what a container is called cannot become one."""


def token_of(configured: str, path: Path) -> str:
    """The token of the settings, or this node's own, which is made once, mode 0600."""
    if configured:
        return configured
    found = path.read_text().strip() if path.exists() else ""
    if not found:  # also where somebody emptied it: nobody's token would be everybody's
        found = secrets.token_hex(24)
        replace_file(path, found.encode())
        path.chmod(0o600)
    return found


class Guard:
    """Checks each request.

    Args:
        hosts: names of this page besides localhost.
        token: what actions want.
        anonymous: whether reading wants it not.
    """

    def __init__(self, hosts: Iterable[str], token: str, *, anonymous: bool) -> None:
        self._hosts = {"localhost", *hosts}
        self._token = token
        self.anonymous = anonymous

    def check_host(self, request: Request) -> None:
        """Refuse a page of another site whose name was made to mean this address (DNS rebinding).

        Raises:
            PermissionDeniedError: the name is not ours.
        """
        host = request.headers.get("host", "")
        name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
        if request.local or name.lower() in self._hosts or _is_ip(name):
            return
        raise PermissionDeniedError(
            f"host {name[:100]!r} is none of this page's names: see the setting `hosts` of opsd"
        )

    def may_act(self, request: Request) -> bool:
        """Whether it carries the token."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode(), self._token.encode()
        )

    def check_reading(self, request: Request) -> None:
        """Raises PermissionDeniedError when reading wants the token, and it is not there."""
        if not (self.anonymous or request.local or self.may_act(request)):
            raise PermissionDeniedError(
                "this page wants its token: `slipway dashboard` on the node prints a link with it"
            )

    def check_private(self, request: Request) -> None:
        """Raises PermissionDeniedError without the token: every local user reaches loopback, and logs are not for all."""
        if not (request.local or self.may_act(request)):
            raise PermissionDeniedError(
                "logs and processes want the token: `slipway dashboard` on the node prints a link with it"
            )

    def check_acting(self, request: Request) -> None:
        """Raises PermissionDeniedError without the token; a cookie could come from another site's page, a header not."""
        if not self.may_act(request):
            raise PermissionDeniedError(
                "actions want the token: `slipway dashboard` on the node prints a link with it"
            )


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
