"""The one HTTP/1.1 request of a connection: read it, refuse it or switch protocols."""

import h11
from wsproto.utilities import generate_accept_token

from common.turns import Turns
from crid.streaming.wire import Wire

SPDY = "SPDY/3.1"
_REASONS = {400: "Bad Request", 403: "Forbidden", 404: "Not Found", 503: "Service Unavailable"}


class RefusedError(Exception):
    """The request gets this status and one sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Exchange:
    """A request, once `read` has returned, and its answer."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._http = h11.Connection(h11.SERVER)
        self.method = ""
        self.path = ""
        self._headers: list[tuple[str, str]] = []

    async def read(self) -> bool:
        """Read the request; False when the client closed before its end.

        Raises:
            RefusedError: it is no HTTP/1.1.
        """
        turns = Turns()
        try:
            while True:
                await turns.give()
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    data = await self._wire.receive()
                    self._http.receive_data(data)
                    if not data:
                        return False
                elif isinstance(event, h11.Request):
                    self.method = event.method.decode()
                    self.path = event.target.decode("latin-1").partition("?")[0]
                    self._headers = [(n.decode(), v.decode("latin-1")) for n, v in event.headers]
                elif isinstance(event, h11.EndOfMessage):
                    return True
                elif not isinstance(event, h11.Data):
                    return False
        except h11.RemoteProtocolError as exc:
            raise RefusedError(400, f"the request is no HTTP/1.1: {exc}") from exc

    def header(self, name: str) -> str:
        """The values of a header, joined by commas."""
        return ", ".join(value for key, value in self._headers if key == name)

    def words(self, name: str) -> list[str]:
        """The values of a header that is a list."""
        return [word for word in (part.strip() for part in self.header(name).split(",")) if word]

    async def switch(self, protocol: str) -> None:
        """Answer 101 with the protocol that was agreed on ("": none was offered)."""
        upgrade = self.header("upgrade")
        headers = [("Upgrade", upgrade), ("Connection", "Upgrade")]
        if upgrade.lower() == "websocket":
            token = generate_accept_token(self.header("sec-websocket-key").encode())
            headers.append(("Sec-WebSocket-Accept", token.decode()))
        name = "Sec-WebSocket-Protocol" if upgrade.lower() == "websocket" else "X-Stream-Protocol-Version"
        if protocol:
            headers.append((name, protocol))
        response = h11.InformationalResponse(status_code=101, headers=headers, reason=b"Switching Protocols")
        await self._wire.send(self._http.send(response) or b"")
        self._wire.unread(self._http.trailing_data[0])

    async def refuse(self, refusal: RefusedError) -> None:
        """Answer with the status and the sentence, and close."""
        body = f"{refusal}\n".encode()
        lines = [
            f"HTTP/1.1 {refusal.status} {_REASONS[refusal.status]}",
            "Content-Type: text/plain; charset=utf-8",
        ]
        lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
        await self._wire.send("\r\n".join(lines).encode() + body)
        await self._wire.finish()
