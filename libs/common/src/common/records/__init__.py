"""Records on Redis: compare-and-set and an outbox in one script."""

from common.records.store import Record, RecordStore

__all__ = ["Record", "RecordStore"]
