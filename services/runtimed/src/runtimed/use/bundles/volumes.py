"""Image volumes: a directory for each VOLUME of an image, with what the image has there."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from common.api.cri.v1 import api_pb2 as cri
from common.errors import FailedPreconditionError, InvalidArgumentError
from common.sys import linux
from common.sys.userns import IdMappings
from runtimed.oci.spec import image_volumes

COPY_S = 300.0
MAX_LINKS = 40  # of Linux, in one path


def make(
    directory: Path, image: dict[str, Any], config: cri.ContainerConfig, rootfs: str, ids: IdMappings | None
) -> dict[str, str]:
    """Make the volumes that the request does not mount itself; returns host directory by container path.

    Blocking. What the image has at the path is copied with its owners and modes; the path is resolved inside
    the root filesystem, wherever its symbolic links point (CVE-2022-23648); there, ids are mapped already.

    Raises:
        InvalidArgumentError: a volume would lie in /proc.
        FailedPreconditionError: the copy failed.
    """
    taken = {os.path.normpath(mount.container_path) for mount in config.mounts}
    made: dict[str, str] = {}
    for index, path in enumerate(image_volumes(image)):
        if os.path.normpath(path) in taken:
            continue
        # by what is there, runtimes confine what they start (CVE-2019-16884)
        if leads_to(path, rootfs).split("/")[1] == "proc":
            raise InvalidArgumentError(f"image VOLUME: {path!r} lies in /proc")
        target = directory / str(index)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(mode=0o755, parents=True)
        if ids:
            os.chown(target, ids.uids.to_host(0), ids.gids.to_host(0))
        _fill(target, path, rootfs)
        made[path] = str(target)
    return made


def leads_to(path: str, rootfs: str) -> str:
    """Where a path leads in a root directory that nobody changes; what is not there counts as a directory.

    Raises:
        InvalidArgumentError: it has too many links.
    """
    waiting, here, links = path.split("/")[::-1], list[str](), 0
    while waiting:
        name = waiting.pop()
        if name == "..":
            here = here[:-1]
        elif name not in ("", "."):
            try:
                target = str(Path(rootfs, *here, name).readlink())
            except OSError:
                here.append(name)
                continue
            links += 1
            if links > MAX_LINKS:
                raise InvalidArgumentError(f"image VOLUME: {path!r} has more than {MAX_LINKS} links")
            here = [] if target.startswith("/") else here
            waiting += target.split("/")[::-1]
    return "/" + "/".join(here)


def _fill(target: Path, path: str, rootfs: str) -> None:
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        source = linux.openat2(root, path.lstrip("/") or ".", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # the image has nothing there
    finally:
        os.close(root)
    try:
        copy = subprocess.run(
            ["cp", "-a", f"/proc/self/fd/{source}/.", str(target)],
            pass_fds=(source,),
            capture_output=True,
            timeout=COPY_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise FailedPreconditionError(f"image VOLUME {path}: the copy took over {COPY_S:.0f} s") from exc
    finally:
        os.close(source)
    if copy.returncode:
        said = copy.stderr.decode(errors="replace").strip()[-300:]
        raise FailedPreconditionError(f"image VOLUME {path}: {said}")
