"""Start of a container whose image is 2 GB, on a link shaped to 100 Mbit/s, before the image is here.

The registry is in a network namespace of its own, behind a pair of veth of which it may send that much (tc-tbf(8)).
"""

import http.client
import json
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import anyio

from devtools.cri import connect
from devtools.registry import (
    ARCHITECTURE,
    CONFIG,
    LAYER_GZIP,
    MANIFEST,
    busybox_entries,
    digest,
    directory,
    file,
)
from tests.support import estargz
from tests.support.eventually import eventually
from tests.support.node import running_node

FILES, FILE_BYTES = 500, 4 << 20
BYTES_PER_S = 100e6 / 8
_NETNS, _NEAR, _FAR = "slipway-bench-lazy", "slwlazy0", "slwlazy1"
_HOST, _ADDRESS, _PORT = "10.253.77.1", "10.253.77.2", 5000
_STARTED = b"first instruction"


@dataclass(frozen=True)
class Start:
    """What a start took."""

    seconds: float
    share: float
    """Of the image's bytes, what had come when the first instruction ran."""
    whole_s: float
    """What the image takes on this link at best."""


async def measure(base: Path) -> Start:
    """Pull and start on a node of its own, until the container has written its first line."""
    settings = {"SLIPWAY_IMAGED_LAZY": "on"}
    with _registry(base / "registry") as host, running_node(base / "node", settings=settings) as node:
        place = node.data_dir / "certs.d" / host
        place.mkdir(parents=True)
        (place / "hosts.toml").write_text(f'server = "http://{host}"\n')
        with (base / "layer").open("w+b") as layer:
            size = _push(host, layer)
        (base / "layer").unlink()
        _shape()
        image = f"{host}/bench/lazy:latest"
        async with connect(node.socket, node.logs) as cri:
            before, began = _came(), time.perf_counter()
            await cri.pull(image)
            sandbox = cri.sandbox_config("lazy", host_network=True)
            config = cri.container_config("c", image, ["sh", "-c", f"echo {_STARTED.decode()}; sleep 1000"])
            container = await cri.create(await cri.run_sandbox(sandbox), config, sandbox)
            await cri.start(container)
            while not any(_STARTED in log.read_bytes() for log in node.logs.rglob("*.log")):
                await anyio.sleep(0.005)
            took, came = time.perf_counter() - began, _came() - before
            await cri.remove_all()
        return Start(took, came / size, size / BYTES_PER_S)


def _push(host: str, layer: IO[bytes]) -> int:
    """Push the image; its bytes."""
    chance = random.Random(1)  # noqa: S311 - the same image every time

    def items() -> Iterator[estargz.Item]:
        yield from busybox_entries()
        yield estargz.landmark(prefetch=False)
        yield directory("data")
        for number in range(FILES):
            yield file(f"data/{number}", chance.randbytes(FILE_BYTES))

    written = estargz.write(items(), layer, level=0)
    layer.seek(0)
    config = json.dumps(
        {
            "architecture": ARCHITECTURE,
            "os": "linux",
            "config": {"Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [written.diff_id]},
        }
    ).encode()
    described = {"mediaType": LAYER_GZIP, "digest": written.digest, "size": written.size}
    described["annotations"] = {estargz.ANNOTATION: written.toc_digest}
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": digest(config), "size": len(config)},
            "layers": [described],
        }
    ).encode()
    connection = http.client.HTTPConnection(host, timeout=600)
    for name, body, length in ((written.digest, layer, written.size), (digest(config), config, len(config))):
        location = _call(connection, "POST", "/v2/bench/lazy/blobs/uploads/", b"", 0)
        _call(connection, "PUT", f"{location}&digest={name}", body, length)
    _call(connection, "PUT", "/v2/bench/lazy/manifests/latest", manifest, len(manifest), MANIFEST)
    connection.close()
    return written.size


def _call(
    connection: http.client.HTTPConnection,
    method: str,
    url: str,
    body: bytes | IO[bytes],
    length: int,
    kind: str = "application/octet-stream",
) -> str:
    connection.request(method, url, body, {"Content-Length": str(length), "Content-Type": kind})
    answer = connection.getresponse()
    answer.read()
    assert answer.status < 300, f"{method} {url}: {answer.status}"
    return str(answer.headers.get("Location", "")).removeprefix(f"http://{_ADDRESS}:{_PORT}")


@contextmanager
def _registry(data: Path) -> Iterator[str]:
    """A registry in its namespace; HOST:PORT."""
    data.mkdir(parents=True)
    settings = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(data)}},
        "http": {"addr": f"{_ADDRESS}:{_PORT}"},
    }
    (data / "config.yml").write_text(json.dumps(settings))
    _ip("netns", "add", _NETNS)
    try:
        _ip("link", "add", _NEAR, "type", "veth", "peer", "name", _FAR, "netns", _NETNS)
        _ip("address", "add", f"{_HOST}/30", "dev", _NEAR)
        _ip("link", "set", _NEAR, "up")
        _ip("-n", _NETNS, "address", "add", f"{_ADDRESS}/30", "dev", _FAR)
        _ip("-n", _NETNS, "link", "set", _FAR, "up")
        _ip("-n", _NETNS, "link", "set", "lo", "up")
        with (data / "log").open("wb") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", _NETNS, "docker-registry", "serve", str(data / "config.yml")],
                stdout=log,
                stderr=log,
            )
        try:
            eventually(_answers, what="the registry")
            yield f"{_ADDRESS}:{_PORT}"
        finally:
            process.terminate()
            process.wait(30)
    finally:
        _ip("netns", "delete", _NETNS)


def _answers() -> bool:
    connection = http.client.HTTPConnection(_ADDRESS, _PORT, timeout=1)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _shape() -> None:
    shape = ["tc", "-n", _NETNS, "qdisc", "add", "dev", _FAR, "root", "tbf"]
    subprocess.run([*shape, "rate", "100mbit", "burst", "64kb", "latency", "100ms"], check=True)


def _came() -> int:
    """Bytes that came over the link, headers and all."""
    return int(Path(f"/sys/class/net/{_NEAR}/statistics/rx_bytes").read_text())


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
