"""Writes docs/settings.md from the settings of the node and its services; `--check` fails when the file has drifted."""

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from common.settings import CommonSettings, allowed_values
from devtools import generated
from devtools.fieldwords import field_words
from node.layout import Layout
from node.prepare import FIXED

SERVICES = Path(__file__).parents[3] / "services"
HOST = "the host's name"
HEAD = """# Settings

Generated from `services/*/src/*/settings.py` and `node/src/node/layout.py` by `./dev protos`; do not edit.

A service takes its defaults, then what its node gives it (names, directories and addresses), then `/etc/slipway/SERVICE.toml`, then the
environment: `SLIPWAY_<SERVICE>_<SETTING>` in capitals, lists and tables as JSON. `slipway-node up` and `./dev up` look for the files in
`--settings-dir`, a service of its own takes those that `--config FILE` names, and the last one wins. What is wrong refuses to start, and names the file or the
variable, the setting, the value and what is allowed. `slipway config show` tells what each service takes from where, `slipway config validate SERVICE FILE` whether it would take
a file, and `SERVICE --print-config` what holds, all without passwords.

```toml
# /etc/slipway/runtimed.toml
default_handler = "runc"
cgroup_driver = "systemd"
default_ulimits = { nofile = [1024, 524288] }
```

```sh tested-by=libs/common/tests/test_common_settings.py,tests/e2e/test_e2e_command_config.py
SLIPWAY_RUNTIMED_CGROUP_DRIVER=systemd .venv/bin/runtimed --print-config
```
"""
NODE = f"""
## The node

Keys of `/etc/slipway/node.toml`, of which systemd's units have {", ".join(f"`{key}`" for key in FIXED)} written in them, and of any file for
`slipway-node --config FILE`, which has an option for each, too (`slipway-node up --help`). All services have them from there; what
SERVICE.toml says wins for that service alone.

| key | default | what it is |
|---|---|---|
"""


def render() -> str:
    """The whole document."""
    parts = [HEAD, _node(), _table("Every service", CommonSettings, set())]
    common = {field.name for field in msgspec.structs.fields(CommonSettings)}
    for path in sorted(SERVICES.glob("*/src/*/settings.py")):
        service = path.parent.name
        settings = importlib.import_module(f"{service}.settings").Settings
        parts.append(_table(service, settings, common))
    return "".join(parts)


def _node() -> str:
    words = field_words(Layout, Layout)
    plain = dataclasses.asdict(Layout(node=""))
    values = {key: f"`{json.dumps(value)}`" for key, value in plain.items()} | {"node": HOST}
    return NODE + "".join(f"| `{key}` | {value} | {words[key]} |\n" for key, value in values.items())


def _table(title: str, cls: type[CommonSettings], without: set[str]) -> str:
    words = _words(cls)
    rows = [
        f"| `{field.name}` | {_default(field)} | {words[field.name]}{_choice(cls, field.name)} |\n"
        for field in msgspec.structs.fields(cls)
        if field.name not in without
    ]
    return f"\n## {title}\n\n| setting | default | what it is |\n|---|---|---|\n" + "".join(rows)


def _words(cls: type[CommonSettings]) -> dict[str, str]:
    """What each setting says of itself.

    Raises:
        SystemExit: one says nothing.
    """
    found = field_words(cls, CommonSettings)
    silent = [name for name, text in found.items() if not text]
    if silent:
        sys.exit(f"{cls.__module__}: {', '.join(silent)}: says nothing of itself")
    return found


def _default(field: Any) -> str:
    if field.name == "node":
        return HOST
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if field.name.endswith("_mode"):
        return f"`0o{value:o}`"
    text = json.dumps(msgspec.to_builtins(value))
    return f"`{text}`" if len(text) < 80 else f"its names are {', '.join(f'`{name}`' for name in value)}"


def _choice(cls: type[CommonSettings], key: str) -> str:
    values = allowed_values(cls, key)
    return f" One of {', '.join(f'`{value}`' for value in values)}." if values else ""


def main() -> None:
    """Write the document, or check it."""
    generated.keep("settings.md", render(), "settings")


if __name__ == "__main__":
    main()
