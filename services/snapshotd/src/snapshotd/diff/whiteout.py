"""Names of layer entries: what is inside, what hides something (OCI image spec, layer.md, "Whiteouts")."""

PREFIX = b".wh."
META_PREFIX = b".wh..wh."
OPAQUE = b".wh..wh..opq"
OPAQUE_XATTR = "trusted.overlay.opaque"
MAX_PATH_BYTES = 2048
"""So that a path of ours plus a path of the layer stays below PATH_MAX."""


class BadEntryError(ValueError):
    """An entry of the layer that is never to be unpacked; the text is for people."""


def show(name: bytes) -> str:
    """A name for a message: printable, and short."""
    text = name[:120].decode("utf-8", "backslashreplace")
    return repr(text + "…") if len(name) > 120 else repr(text)


def parts_of(name: bytes) -> list[bytes]:
    """The components of a name inside the layer; absolute names count from the layer's root.

    Raises:
        BadEntryError: the name climbs, is too long or holds a NUL.
    """
    if len(name) > MAX_PATH_BYTES:
        message = f"entry {show(name)}: its name has {len(name)} bytes, more than {MAX_PATH_BYTES}"
        raise BadEntryError(message)
    parts = [part for part in name.split(b"/") if part and part != b"."]
    if b".." in parts:
        message = f"entry {show(name)}: its name has a '..'"
        raise BadEntryError(message)
    return parts


def hidden_name(base: bytes) -> bytes:
    """What a whiteout entry hides; empty for aufs' own files, which mean nothing here.

    Raises:
        BadEntryError: it hides no name that can exist.
    """
    if base.startswith(META_PREFIX):
        return b""
    hidden = base[len(PREFIX) :]
    if hidden in (b"", b".", b".."):
        message = f"entry {show(base)}: a whiteout of no name"
        raise BadEntryError(message)
    return hidden
