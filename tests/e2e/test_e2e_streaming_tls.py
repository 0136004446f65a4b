"""The streaming URLs with TLS: a certificate is used, and changed under running streams."""

import os
import ssl
import subprocess
from pathlib import Path

import pytest

from devtools.cri import connect
from devtools.registry import Registry
from tests.e2e.test_e2e_pods import pod
from tests.e2e.test_e2e_streaming import V4, exec_url, in_thread, spdy_exec
from tests.support.eventually import until
from tests.support.node import running_node
from tests.support.streaming import Spdy

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(180)]
NEW_S = 20.0


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A new pair of files, written beside the names and moved onto them; one after the other."""
    command = ["openssl", "req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=node"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    files = directory / "cert.pem", directory / "key.pem"
    fresh = [path.with_suffix(".new") for path in files]
    subprocess.run(
        [*command, "-out", fresh[0], "-keyout", fresh[1]], check=True, capture_output=True, timeout=30
    )
    for made, path in zip(fresh, files, strict=True):
        os.replace(made, path)
    return files


async def test_a_new_certificate_is_used_and_cuts_no_stream(
    shop: Registry, busybox: str, tmp_path: Path
) -> None:
    cert, key = make_certificate(tmp_path)
    context = ssl.create_default_context(cafile=str(cert))
    settings = {"SLIPWAY_CRID_STREAM_TLS_CERT": str(cert), "SLIPWAY_CRID_STREAM_TLS_KEY": str(key)}
    with running_node(tmp_path, settings=settings) as node:
        async with connect(node.socket, node.logs) as cri:
            _, container_id = await pod(cri, "tls", busybox, ["sleep", "1000"])

            async def cat(trust: ssl.SSLContext) -> bytes:
                url = await exec_url(cri, container_id, ["cat"], stdin=True)
                assert url.startswith("https://127.0.0.1:")
                names = ("error", "stdin", "stdout")
                found = await in_thread(lambda: spdy_exec(url, *names, stdin=b"x" * 1_000_000, context=trust))
                return found["stdout"]

            assert len(await cat(context)) == 1_000_000
            url = await exec_url(cri, container_id, ["cat"], stdin=True)
            with await in_thread(lambda: Spdy(url, V4, context=context)) as standing:
                for name in ("error", "stdin", "stdout"):
                    standing.open(name)
                make_certificate(tmp_path)
                renewed = ssl.create_default_context(cafile=str(cert))
                came = await until(
                    lambda: cat(renewed), "the new one", within_s=NEW_S, but=ssl.SSLCertVerificationError
                )
                assert len(came) == 1_000_000
                with pytest.raises(ssl.SSLCertVerificationError):
                    await cat(context)
                standing.write(standing.ids["stdin"], b"still here", fin=True)
                stdout = standing.ids["stdout"]
                assert (await in_thread(standing.collect, stdout))[stdout] == b"still here"
            await cri.remove_all()
