"""A real registry (Debian's docker-registry) on a free loopback port, and images made on the spot for it."""

import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.sys.ports import held_port
from devtools.ports import wait_for_port

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
TITLE = "org.opencontainers.image.title"
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
HTTP_S = 120
STOP_S = 10
BUSYBOX = Path("/bin/busybox")


@dataclass(frozen=True)
class Layer:
    """A layer's blob, ready to push."""

    blob: bytes
    diff_id: str
    annotations: dict[str, str] = field(default_factory=dict)
    """Of its descriptor in the manifest."""


@dataclass
class Registry:
    """A running registry; `address` is HOST:PORT."""

    address: str
    process: subprocess.Popen[bytes]
    pushed: list[str] = field(default_factory=list)

    def push(
        self,
        repository: str,
        layers: list[Layer],
        config: object,
        tag: str = "latest",
        architectures: Sequence[str] = (ARCHITECTURE,),
    ) -> str:
        """Push an image as an OCI index with one manifest for each architecture; returns its reference.

        Its configuration may be what no image should have: a registry does not look.
        """
        entries = [self._platform(repository, layers, config, each) for each in architectures]
        index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
        self._manifest(repository, tag, index, INDEX)
        self.pushed.append(f"{self.address}/{repository}:{tag}")
        return self.pushed[-1]

    def _platform(
        self, repository: str, layers: list[Layer], config: object, architecture: str
    ) -> dict[str, Any]:
        document = {
            "architecture": architecture,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        }
        body = json.dumps(document, sort_keys=True).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": self._blob(repository, body, CONFIG),
                "layers": [self._layer(repository, layer) for layer in layers],
            }
        ).encode()
        self._manifest(repository, digest(manifest), manifest, MANIFEST)
        entry = {"mediaType": MANIFEST, "digest": digest(manifest), "size": len(manifest)}
        return entry | {"platform": {"architecture": architecture, "os": "linux"}}

    def push_artifact(self, repository: str, kind: str, files: dict[str, bytes], tag: str = "latest") -> str:
        """Push files as an artifact, as ORAS does; returns its reference."""
        empty = self._blob(repository, b"{}", "application/vnd.oci.empty.v1+json")
        layers = [
            self._blob(repository, body, "application/octet-stream") | {"annotations": {TITLE: name}}
            for name, body in files.items()
        ]
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind}
        self._manifest(
            repository, tag, json.dumps(document | {"config": empty, "layers": layers}).encode(), MANIFEST
        )
        return f"{self.address}/{repository}:{tag}"

    def _manifest(self, repository: str, reference: str, body: bytes, kind: str) -> None:
        self._call("PUT", f"/v2/{repository}/manifests/{reference}", body, kind)

    def _layer(self, repository: str, layer: Layer) -> dict[str, Any]:
        described = self._blob(repository, layer.blob, LAYER_GZIP)
        return described | {"annotations": layer.annotations} if layer.annotations else described

    def _blob(self, repository: str, blob: bytes, kind: str) -> dict[str, Any]:
        described = {"mediaType": kind, "digest": digest(blob), "size": len(blob)}
        try:
            self._call("HEAD", f"/v2/{repository}/blobs/{described['digest']}")
        except urllib.error.HTTPError:
            location = self._call("POST", f"/v2/{repository}/blobs/uploads/", b"")
            joint = "&" if "?" in location else "?"
            self._call(
                "PUT", f"{location}{joint}digest={described['digest']}", blob, "application/octet-stream"
            )
        return described

    def _call(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> str:
        url = path if path.startswith("http") else f"http://{self.address}{path}"
        request = urllib.request.Request(url, data=body, method=method)  # noqa: S310 - loopback, plain http
        if kind:
            request.add_header("Content-Type", kind)
        with urllib.request.urlopen(request, timeout=HTTP_S) as answer:  # noqa: S310 - loopback, plain http
            return str(answer.headers.get("Location", ""))


def digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def layer(entries: Sequence[tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]]) -> Layer:
    """A gzip layer of tar entries."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            if isinstance(entry, tuple):
                entry[0].size = len(entry[1])
                tar.addfile(entry[0], io.BytesIO(entry[1]))
            else:
                tar.addfile(entry)
    return Layer(gzip.compress(raw.getvalue(), 6, mtime=0), digest(raw.getvalue()))


def directory(name: str, mode: int = 0o755) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.mode = tarfile.DIRTYPE, mode
    return made


def file(name: str, content: bytes, mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.mode = mode
    return made, content


def link(name: str, target: str) -> tarfile.TarInfo:
    """A hard link."""
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = tarfile.LNKTYPE, target, 0o755
    return made


def busybox_layer() -> Layer:
    """A small root filesystem of busybox-static with all its applets."""
    return layer(busybox_entries())


def busybox_entries() -> list[tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]]:
    """What is in it."""
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    entries: list[tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]] = [
        directory(name) for name in ("bin", "dev", "etc", "proc", "root", "sys", "usr", "var", "home")
    ]
    entries += [directory("tmp", 0o1777), file("bin/busybox", BUSYBOX.read_bytes(), 0o755)]
    entries += [link(f"bin/{applet}", "bin/busybox") for applet in applets if applet != "busybox"]
    entries.append(
        file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n")
    )
    entries.append(file("etc/group", b"root:x:0:\nnobody:x:65534:\n"))
    return entries


def push_busybox(registry: Registry) -> str:
    """The busybox image; returns its reference."""
    config = {"Env": ["PATH=/bin:/sbin:/usr/bin"], "Cmd": ["sh"]}
    return registry.push("demo/busybox", [busybox_layer()], config)


@contextmanager
def registry(data: Path, accounts: str = "") -> Iterator[Registry]:
    """Run a registry with its blobs in `data`; with the lines of an htpasswd file, only for those accounts."""
    data.mkdir(parents=True, exist_ok=True)
    with held_port() as port, (data / "registry.log").open("ab") as log:
        settings: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(data)}},
            "http": {"addr": f"127.0.0.1:{port}"},
        }
        if accounts:
            (data / "htpasswd").write_text(accounts)
            settings["auth"] = {"htpasswd": {"realm": "here", "path": str(data / "htpasswd")}}
        path = data / "config.yml"
        path.write_text(json.dumps(settings))
        process = subprocess.Popen(["docker-registry", "serve", str(path)], stdout=log, stderr=log)
        try:
            wait_for_port(port)
            yield Registry(f"127.0.0.1:{port}", process)
        finally:
            process.terminate()
            process.wait(STOP_S)
