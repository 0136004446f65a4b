"""Logs of containers, as tests read them."""

from pathlib import Path

from common import crilog


def records(*paths: Path) -> list[crilog.Record]:
    """The whole records in the files of a log, in turn; a file that is not there yet has none."""
    return [record for path in paths if path.exists() for record in crilog.records(path.read_bytes())]


def untimed(*paths: Path) -> list[str]:
    """Its records without their times, such as `stdout F text`."""
    return [b" ".join(record[1:]).decode() for record in records(*paths)]


def lines(*paths: Path) -> list[str]:
    """The texts of its lines, of both streams."""
    return [line.text.decode() for line in crilog.lines(records(*paths))]
