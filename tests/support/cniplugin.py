"""A CNI plugin that does as it is told."""

import json
from pathlib import Path

from tests.support.node import TestNode

PLUGIN = """#!/usr/bin/python3
import json, os, pathlib, sys, time
here = pathlib.Path(__file__).parent
given = json.load(sys.stdin)
with open(here / "calls", "a") as calls:
    calls.write(json.dumps([os.environ["CNI_COMMAND"], os.environ["CNI_CONTAINERID"], bool(os.environ.get("CNI_NETNS"))]) + "\\n")
while (here / ("hold-" + os.environ["CNI_COMMAND"])).exists():
    time.sleep(0.02)
if (here / ("fail-" + os.environ["CNI_COMMAND"])).exists():
    print(json.dumps({"cniVersion": "0.4.0", "code": 11, "msg": "told to fail"}))
    sys.exit(1)
if os.environ["CNI_COMMAND"] == "ADD":
    print(json.dumps(given["prevResult"]))
"""


class Plugin:
    """A last plugin of the chain that writes down its calls, and waits or fails when it is told to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        program = directory / "told"
        program.write_text(PLUGIN)
        program.chmod(0o755)

    @property
    def settings(self) -> dict[str, str]:
        directories = [str(self.directory), "/opt/cni/bin", "/usr/lib/cni"]
        return {"SLIPWAY_RUNTIMED_CNI_BIN_DIRS": json.dumps(directories)}

    def join(self, node: TestNode) -> None:
        path = next((node.data_dir / "cni").glob("*.conflist"))
        document = json.loads(path.read_text())
        document["plugins"].append({"type": "told"})
        path.write_text(json.dumps(document))

    def calls(self, sandbox_id: str) -> list[str]:
        path = self.directory / "calls"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [command for command, container, _ in lines if container == sandbox_id]
