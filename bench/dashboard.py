"""The dashboard in a real Chromium, with five hundred made-up containers beside a real node's."""

import statistics
from pathlib import Path

import anyio.to_thread

from devtools.chromium import Page, chromium
from devtools.cri import Cri
from tests.support.eventually import eventually
from tests.support.madeup import madeup_node
from tests.support.node import TestNode
from tests.support.opsd import address

CONTAINERS = 500
ROUNDS = 15
_FULL = f"""new Promise(done => {{ const look = () => Number(document.querySelector('.count')?.innerText ?? 0) >= {CONTAINERS}
? done(performance.now()) : requestAnimationFrame(look); look(); }})"""
_PAINT = """new Promise(done => new PerformanceObserver(list => { const [found] = list.getEntriesByName('first-contentful-paint');
if (found) done(found.startTime); }).observe({ type: 'paint', buffered: true }))"""
_SEEN = """new Promise(done => {{ const look = () => document.body.innerText.includes('{name}')
? done(Date.now()) : requestAnimationFrame(look); look(); }})"""
_TOLD = "import('/store.js').then(m => m.store.events.find(e => e.verb === 'created' && e.facts.name === '{name}').at)"


async def measure(cri: Cri, image: str, node: TestNode, base: Path) -> dict[str, float]:
    """First paint and all rows in sight after it, events to their rows, in ms; opsd's PSS in MiB."""
    url = eventually(lambda: address(node.run_dir), what="the address of the page")
    with madeup_node(node.state["nats_url"], "crowd", CONTAINERS), chromium(base) as page:
        page.size(1280, 800)
        page.goto(f"{url}/#/containers")
        page.until("!!document.querySelector('.count')")
        page.run(_FULL)
        paints, fulls = [], []
        for _ in range(ROUNDS // 3):
            page.goto("about:blank")
            page.goto(f"{url}/#/containers")
            page.until("!!document.querySelector('.count')")
            fulls.append(page.run(_FULL))
            paints.append(page.run(_PAINT))
        late = [await _event(cri, image, page, number) for number in range(ROUNDS)]
    return {
        "paint_ms": statistics.median(paints),
        "rows_ms": statistics.median(fulls),
        "event_ms": statistics.median(late),
        "opsd_mib": _pss_mib(node.pid("opsd")),
    }


async def _event(cri: Cri, image: str, page: Page, number: int) -> float:
    """From the time that an event of a real container has to the frame that shows it."""
    name = f"probe-{number}"
    sandbox = cri.sandbox_config(name, host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    await cri.create(sandbox_id, cri.container_config(name, image, ["true"]), sandbox)
    seen = await anyio.to_thread.run_sync(page.run, _SEEN.format(name=name))
    told = page.run(_TOLD.format(name=name))
    await cri.remove_sandbox(sandbox_id)
    return float(seen - told)


def _pss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
