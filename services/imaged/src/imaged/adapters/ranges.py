"""A range of a blob from a registry, into its place."""

import re

from urllib3.exceptions import HTTPError

from common.errors import DataLossError, FailedPreconditionError
from imaged.adapters.transport import Transport
from imaged.fetching.bandwidth import Bandwidth
from imaged.fetching.interruptible import Stop
from imaged.fetching.refusal import Refused, reason
from imaged.manifest import Descriptor
from imaged.ports import Partial

_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


def read_range(
    transport: Transport,
    blob: Descriptor,
    extent: tuple[int, int],
    partial: Partial,
    bandwidth: Bandwidth,
    stop: Stop,
) -> None:
    """Bring the bytes from the first to before the second, and nothing else. Blocks.

    Raises:
        Refused: the host does not give them; FailedPreconditionError when it answers no ranges.
    """
    start, end = extent
    headers = {"Range": f"bytes={start}-{end - 1}"}
    response = transport.open("GET", f"blobs/{blob.digest}", headers, stop)
    at = start
    try:
        stop.attach(response)
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if response.status != 206 or not found or (int(found[1]), int(found[2])) != (start, end - 1):
            # the whole of it may be gigabytes: it is not read
            raise Refused(
                FailedPreconditionError(f"registry {transport.host.name} answers no ranges of {blob.digest}")
            )
        while at < end and (
            chunk := response.read(min(bandwidth.chunk_bytes, end - at), decode_content=False)
        ):
            partial.write(chunk, at)
            at += len(chunk)
            bandwidth.spend(len(chunk), stop)
    except DataLossError as exc:
        raise Refused(exc) from exc
    except (HTTPError, OSError) as exc:
        raise Refused(transport.unavailable(reason(exc)), transient=True) from exc
    finally:
        stop.detach()
        if at == end:
            response.release_conn()
        else:
            response.close()
    if at < end:
        raise Refused(
            transport.unavailable(f"cut the connection at byte {at} of {blob.digest}"), transient=True
        )
