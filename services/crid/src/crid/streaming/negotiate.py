"""Which protocol a client and this server speak with each other."""

from dataclasses import dataclass

from crid.streaming.http import SPDY, Exchange, RefusedError

TUNNEL = f"{SPDY}+portforward.k8s.io"
REMOTE_SPDY = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")
REMOTE_WEBSOCKET = (
    *("v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"),
    *("v4.base64.channel.k8s.io", "base64.channel.k8s.io"),
)
FORWARD_SPDY = ("portforward.k8s.io",)
FORWARD_WEBSOCKET = (TUNNEL, "v4.channel.k8s.io")


@dataclass(frozen=True)
class Agreed:
    """What both speak."""

    websocket: bool
    protocol: str
    """"" when the client offered none: the oldest is meant."""

    @property
    def version(self) -> int:
        """Of remotecommand."""
        return int(self.protocol[1]) if self.protocol.startswith("v") else 1

    @property
    def text(self) -> bool:
        """Whether binary data travels as base64."""
        return "base64" in self.protocol


def negotiate(request: Exchange, *, forwards: bool) -> Agreed:
    """Find the first of the client's protocols that is supported.

    Raises:
        RefusedError: the request asks for no upgrade, or for none that is supported.
    """
    upgrade = request.header("upgrade").lower()
    if "upgrade" not in request.header("connection").lower() or upgrade not in (SPDY.lower(), "websocket"):
        offered = request.header("upgrade") or "none"
        raise RefusedError(400, f"upgrade {offered}: this needs an upgrade to websocket or {SPDY}")
    websocket = upgrade == "websocket"
    if websocket:
        _check_websocket(request)
    supported: tuple[str, ...]
    if forwards:
        supported = FORWARD_WEBSOCKET if websocket else FORWARD_SPDY
    else:
        supported = REMOTE_WEBSOCKET if websocket else REMOTE_SPDY
    header = "sec-websocket-protocol" if websocket else "x-stream-protocol-version"
    offers = request.words(header)
    if not offers and not (forwards and websocket):
        return Agreed(websocket, "")
    for offer in offers:
        if offer in supported:
            return Agreed(websocket, offer)
    raise RefusedError(
        403,
        f"{header}: the client offers {', '.join(offers) or 'none'}; supported are {', '.join(supported)}",
    )


def _check_websocket(request: Exchange) -> None:
    if request.method != "GET":
        raise RefusedError(400, f"method {request.method}: a WebSocket begins with GET")
    if request.header("sec-websocket-version") != "13" or not request.header("sec-websocket-key"):
        raise RefusedError(400, "a WebSocket needs sec-websocket-version 13 and a sec-websocket-key")
