"""A Docker engine of our own (Debian's), and images for it that are made here: no registry of images is asked.

The engine has its own directories and its own mount namespace, whose mounts are shared as systemd shares a machine's.
Its images and the steps of their builds are kept between runs in /var/cache/slipway-engine.
"""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import docker
from docker import DockerClient
from docker.errors import DockerException, ImageNotFound

from node import running

CACHE = Path("/var/cache/slipway-engine")
RUN = Path("/run/slipway-engine")
SUITE = "bookworm"
START_S, STOP_S, BUILD_S = 60, 30, 900
"""Seconds."""
KEPT = "168h"
"""Age of the steps of builds that are still of use."""
BROKERS = (
    "FROM {base}\nRUN apt-get update && apt-get install -y --no-install-recommends nats-server redis-server\n"
)
_TOLD = re.compile(r"^(?:global|:env:)\.(cert|index-url)='(.*)'$", re.MULTILINE)
_SHARE = 'mount --make-rshared / && exec "$@"'
_OPTIONS = (
    "--bridge=none",
    "--iptables=false",
    "--ip6tables=false",
    "--ip-forward=false",
    "--oom-score-adjust=0",
)


def installed() -> bool:
    """Whether this process may start an engine."""
    return os.geteuid() == 0 and shutil.which("dockerd") is not None


@contextmanager
def engine(*, wait: bool) -> Iterator[str | None]:
    """The address of a running engine without containers; while another process has one, waits or yields None."""
    CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
    RUN.mkdir(mode=0o700, exist_ok=True)
    address = f"unix://{RUN}/docker.sock"
    with (CACHE / "lock").open("w") as lock, (CACHE / "engine.log").open("ab") as log:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
            return
        _end_left()
        command = [
            "dockerd",
            "--data-root",
            f"{CACHE}/docker",
            "--exec-root",
            f"{RUN}/exec",
            "--host",
            address,
        ]
        command += ["--pidfile", f"{RUN}/docker.pid", "--group", "root", *_OPTIONS]
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation=private", "sh", "-c", _SHARE, "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            start_new_session=True,
        )
        try:
            _clear(_answering(address, process))
            yield address
            _clear(docker.DockerClient(base_url=address))
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _end_left() -> None:
    """End the engine of a process that was killed: it is nobody's, since the lock is ours."""
    pid_file = RUN / "docker.pid"
    with suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        handle = os.pidfd_open(pid)
        try:
            if f"--data-root\0{CACHE}/docker\0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                running.end_held(handle)
        finally:
            os.close(handle)
    pid_file.unlink(missing_ok=True)


def _answering(address: str, process: "subprocess.Popen[bytes]") -> DockerClient:
    for _ in range(START_S * 20):
        with suppress(DockerException, OSError):
            return docker.DockerClient(base_url=address, timeout=BUILD_S)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            break
    message = f"dockerd does not answer: see {CACHE}/engine.log"
    raise RuntimeError(message)


def _clear(client: DockerClient) -> None:
    for container in client.containers.list(all=True):
        container.remove(force=True)
    client.images.prune(filters={"dangling": True, "until": KEPT})
    client.close()


def base_image(address: str) -> str:
    """Debian's small root, which knows how this machine reaches PyPI; made by mmdebstrap when the engine has none."""
    client = docker.DockerClient(base_url=address, timeout=BUILD_S)
    try:
        client.images.get(f"slipway-debian:{SUITE}")
    except ImageNotFound:
        sys.stderr.write("making a base image with mmdebstrap (once)\n")
        with tempfile.TemporaryDirectory(dir=CACHE) as made:
            _debootstrap(f"{made}/root.tar")
            client.api.import_image_from_file(f"{made}/root.tar", repository="slipway-debian", tag=SUITE)
    finally:
        client.close()
    return _build(address, "slipway-base", f"FROM slipway-debian:{SUITE}\nCOPY pip.* /etc/\n", _pip_files())


def broker_image(address: str) -> str:
    """Debian's redis-server and nats-server."""
    return _build(address, "slipway-brokers", BROKERS.format(base=base_image(address)), {})


def _build(address: str, tag: str, recipe: str, files: dict[str, bytes]) -> str:
    client = docker.DockerClient(base_url=address, timeout=BUILD_S)
    with tempfile.TemporaryDirectory() as context:
        for name, content in {"Dockerfile": recipe.encode(), **files}.items():
            Path(context, name).write_bytes(content)
        client.images.build(path=context, tag=tag, network_mode="host", rm=True)
    client.close()
    return tag


def _debootstrap(tar: str) -> None:
    command = ["mmdebstrap", "--quiet", "--variant=minbase", SUITE, tar]
    command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    subprocess.run(command, check=True, timeout=BUILD_S, stdin=subprocess.DEVNULL)


def _pip_files() -> dict[str, bytes]:
    """What pip is told of certificates and the index on this machine, as files for /etc."""
    pip = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(pip, capture_output=True, text=True, check=True, timeout=START_S).stdout
    told = dict(_TOLD.findall(said))
    files = {"pip.conf": b"[global]\n"}
    if "cert" in told:
        files["pip.crt"] = Path(told["cert"]).read_bytes()
        told["cert"] = "/etc/pip.crt"
    files["pip.conf"] += "".join(f"{name} = {value}\n" for name, value in told.items()).encode()
    return files


def main() -> None:
    """Make the images that the tests use, so that no test waits for them."""
    with engine(wait=True) as address:
        if address:
            broker_image(address)


if __name__ == "__main__":
    main()
