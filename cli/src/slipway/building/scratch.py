"""What `FROM scratch` begins with: an image without layers."""

import io
import json
import tarfile

from slipway.building import platform


def archive() -> bytes:
    """Such an image for this machine, as `docker save` would write it."""
    system, architecture, _ = platform.own()
    config = {
        "architecture": architecture,
        "os": system,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    manifest = [{"Config": "config.json", "RepoTags": [], "Layers": []}]
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name, document in (("config.json", config), ("manifest.json", manifest)):
            content = json.dumps(document).encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return written.getvalue()
