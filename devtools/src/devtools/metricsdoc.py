"""Writes docs/metrics.md from what the services count; `--check` fails when the file has drifted."""

import importlib
from collections.abc import Iterable
from pathlib import Path

from common.observe import metrics
from common.observe.metrics import Metric
from devtools import generated

ROOT = Path(__file__).parents[3]
SHARED = ("common.rpc.meter", "common.events.relay", "common.operations")
HEAD = """# Metrics

Generated from `services/*/src/*/meters.py` by `./dev protos`; do not edit.

Each service answers `GET /metrics` in Prometheus' text format, on the Unix socket `RUN_DIR/metrics/SERVICE.sock` (root
only) and on the address of its setting `metrics_address`, which is empty by default. A node that `slipway-node up`
starts has them on loopback:

| service | address |
|---|---|
| snapshotd | `127.0.0.1:9471` |
| shimd | `127.0.0.1:9472` |
| imaged | `127.0.0.1:9473` |
| runtimed | `127.0.0.1:9474` |
| crid | `127.0.0.1:9475` |
| opsd | `127.0.0.1:9476` |

`slipway-node up --metrics-port N` moves them, and 0 leaves the Unix sockets alone. A port that is taken costs the service
nothing: it tries again every five seconds.

```sh tested-by=docs/quickstart.md
sudo curl --unix-socket /run/slipway/metrics/runtimed.sock http://localhost/metrics
```

`deploy/prometheus/prometheus.yml` scrapes a node, `deploy/prometheus/alerts.yml` has rules for it, and
`deploy/grafana/slipway.json` is a dashboard to import. What containers use is not here: a kubelet has it from
`ListPodSandboxMetrics`, under cAdvisor's names.

Names are `slipway_<service>_<what>_<unit>`. What every service has is `slipway_<what>_<unit>` with the label `service`, or
with names of steps that begin with the service's. `process_*` are there as in other programs.
"""


def render() -> str:
    """The whole document."""
    parts = [HEAD]
    for module in SHARED:
        importlib.import_module(module)
    parts.append(_table("Every service", metrics.catalogue))
    for path in sorted((ROOT / "services").glob("*/src/*/meters.py")):
        before = len(metrics.catalogue)
        importlib.import_module(f"{path.parent.name}.meters")
        parts.append(_table(path.parent.name, metrics.catalogue[before:]))
    return "".join(parts)


def _table(title: str, found: Iterable[Metric]) -> str:
    rows = [f"| `{m.name}` | {m.kind} | {', '.join(m.labels)} | {m.text} |\n" for m in found]
    return f"\n## {title}\n\n| metric | kind | labels | what it is |\n|---|---|---|---|\n" + "".join(rows)


def main() -> None:
    """Write the document, or check it."""
    generated.keep("metrics.md", render(), "services")


if __name__ == "__main__":
    main()
