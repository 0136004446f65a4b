"""What the reader of a tar archive tells of the pieces that it is given."""

from common.errors import DataLossError, InvalidArgumentError, SlipwayError
from imaged.archive.tarstream import Member, TarParser


class Told:
    """A sink that keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Member, bytes]] = []
        self._member: Member | None = None
        self._body = b""

    def begin(self, member: Member) -> None:
        self._member, self._body = member, b""
        if member.kind != "file":
            self.told.append((member, b""))

    def write(self, piece: bytes) -> None:
        self._body += piece

    def end(self) -> None:
        assert self._member
        self.told.append((self._member, self._body))


def parsed(pieces: list[bytes]) -> list[tuple[Member, bytes]] | type[SlipwayError]:
    sink = Told()
    parser = TarParser(sink)
    try:
        for piece in pieces:
            parser.feed(piece)
        parser.close()
    except (DataLossError, InvalidArgumentError) as exc:
        return type(exc)
    return sink.told
