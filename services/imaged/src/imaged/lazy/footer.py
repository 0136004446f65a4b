"""The end of an eStargz blob (stargz-snapshotter, docs/estargz.md): an empty gzip member that says where the table of contents is."""

BYTES = 51
_LEGACY_BYTES = 47
_HEAD = b"\x1f\x8b\x08\x04"
_MAGIC = b"STARGZ"
_EXTRA_AT, _DIGITS = 12, 16


def toc_offset(tail: bytes, size: int) -> int | None:
    """Where the table of contents begins; None when this is no end of an eStargz blob.

    Args:
        tail: the blob's last `BYTES`.
        size: the blob's.
    """
    length = _DIGITS + len(_MAGIC)
    for count, subfield in ((BYTES, b"SG"), (_LEGACY_BYTES, b"")):
        foot = tail[-count:]
        head = subfield and subfield + length.to_bytes(2, "little")
        extra = foot[_EXTRA_AT : _EXTRA_AT + len(head) + length]
        if (
            len(foot) != count
            or not foot.startswith(_HEAD)
            or not extra.startswith(head)
            or not extra.endswith(_MAGIC)
        ):
            continue
        digits = extra[len(head) : len(head) + _DIGITS]
        try:
            offset = int(digits, 16)
        except ValueError:
            return None
        return offset if 0 < offset < size - len(foot) else None
    return None
