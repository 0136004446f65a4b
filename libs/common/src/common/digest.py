"""Digests as the OCI image spec writes them (descriptor.md, "Digests")."""

import re
from dataclasses import dataclass
from typing import Self

from common.errors import InvalidArgumentError

_HEX_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}
_HEX = re.compile(r"[a-f0-9]+")


@dataclass(frozen=True, slots=True)
class Digest:
    """An algorithm and a lower-case hex value; str() gives `algorithm:hex`."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `algorithm:hex`.

        Raises:
            InvalidArgumentError: the text is no digest of an algorithm that we know.
        """
        algorithm, _, value = text.partition(":")
        if len(value) != _HEX_LENGTH.get(algorithm, -1) or not _HEX.fullmatch(value):
            message = f"digest {text!r}: want sha256:<64 hex digits>, sha384 or sha512"
            raise InvalidArgumentError(message)
        return cls(algorithm, value)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
