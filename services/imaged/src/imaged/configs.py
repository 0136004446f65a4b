"""The configs of images, of which some stay in memory, and the few facts of them that a list of all images tells."""

from dataclasses import dataclass

import msgspec

from common.errors import SlipwayError
from common.observe.log import get_logger
from imaged.manifest import MALFORMED, MAX_CONFIG_BYTES
from imaged.ports import Content
from imaged.record import ImageRecord

MAX_KEPT_BYTES = 2 * MAX_CONFIG_BYTES
"""Of the configs in memory; most are a few kilobytes."""
MAX_FACTS = 4096
MAX_TEXT = 256
"""Characters of a fact: a list of images is one message, whatever their configs say."""
_log = get_logger("imaged")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a config says, cut where it is too long; empty where it says nothing, or something else than text."""

    user: str = ""
    created: str = ""


class _Run(msgspec.Struct):
    user: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="User")


class _Config(msgspec.Struct):
    created: msgspec.Raw = msgspec.Raw()
    config: msgspec.Raw = msgspec.Raw()


class Configs:
    """Reads configs.

    Args:
        content: has them.
    """

    def __init__(self, content: Content) -> None:
        self._content = content
        self._kept: dict[str, bytes] = {}
        self._facts: dict[str, Facts] = {}

    async def read(self, record: ImageRecord) -> bytes:
        """An image's config; empty for an artifact, and when the disk lost it, so that look-ups still work."""
        kept = self._kept.get(record.id)
        if kept is not None:
            return kept
        body = await self._read(record)
        if body:
            self._kept[record.id] = body
        while sum(map(len, self._kept.values())) > MAX_KEPT_BYTES:
            self._kept.pop(next(iter(self._kept)))
        return body

    async def facts(self, record: ImageRecord) -> Facts:
        """The facts of an image's config."""
        known = self._facts.get(record.id)
        if known is not None:
            return known
        body = self._kept.get(record.id) or await self._read(record)
        found = facts_of(body)
        if body:
            while len(self._facts) >= MAX_FACTS:
                self._facts.pop(next(iter(self._facts)))
            self._facts[record.id] = found
        return found

    def forget(self, image_id: str) -> None:
        """The image is gone."""
        self._kept.pop(image_id, None)
        self._facts.pop(image_id, None)

    async def _read(self, record: ImageRecord) -> bytes:
        if record.artifact_type:
            return b""
        try:
            return await self._content.read(record.id)
        except SlipwayError as exc:
            _log.error("config.lost", image_id=record.id, error=exc.message)
            return b""


def facts_of(body: bytes) -> Facts:
    """The facts of a config, whatever else it says. Pure."""
    try:
        config = msgspec.json.decode(body, type=_Config)
    except MALFORMED:
        return Facts()
    try:
        user = msgspec.json.decode(config.config, type=_Run).user
    except MALFORMED:
        user = msgspec.Raw()
    return Facts(_text(user), _text(config.created))


def _text(value: msgspec.Raw) -> str:
    try:
        return msgspec.json.decode(value, type=str)[:MAX_TEXT]
    except MALFORMED:
        return ""
