"""The dashboard of a real node in a real Chromium; pictures of it are kept in build/screenshots."""

import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anyio
import anyio.to_thread
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.chromium import Page
from devtools.cri import Cri
from devtools.registry import Registry, file, layer
from tests.e2e.test_e2e_pods import exited, pod
from tests.support.browser import NEEDS_CHROMIUM, SHOTS
from tests.support.eventually import eventually
from tests.support.node import TestNode
from tests.support.opsd import address, ask
from tests.support.pace import patience

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.e2e,
    pytest.mark.root,
    pytest.mark.timeout(120),
    NEEDS_CHROMIUM,
]
TALKS = "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.2; done"
SECRET = "hunter2-of-the-test"


@pytest.fixture
def page(browser: Page, node: TestNode) -> Iterator[Page]:
    """The overview, freshly loaded; whatever goes wrong in the page fails the test."""
    browser.problems.clear()
    browser.size(1280, 800)
    browser.scheme("light")
    url = eventually(lambda: address(node.run_dir), what="the page has an address")
    browser.goto("about:blank")
    browser.goto(f"{url}/")
    shows(browser, "live")
    browser.run("sessionStorage.clear()")
    yield browser
    browser.listen()
    # what a test has removed is asked for once more
    gone = "status of 404"
    assert [problem for problem in browser.problems if gone not in problem] == []


def shows(page: Page, text: str, within_s: float = 15) -> None:
    page.until(f"document.body?.innerText.includes({text!r})", patience(within_s))


def hides(page: Page, text: str) -> None:
    page.until(f"!document.body.innerText.includes({text!r})", patience(15))


def looks(page: Page) -> str:
    """Light or dark, by the page's own colours: its ground and its text, of which one is light and one is not."""
    grey = "match(/[\\d.]+/g).slice(0, 3).reduce((sum, each) => sum + Number(each) / 3, 0)"
    colours = "['backgroundColor', 'color'].map(part => getComputedStyle(document.body)[part]"
    ground, text = page.run(f"{colours}.{grey})")
    assert abs(ground - text) > 150, (ground, text)
    return "light" if ground > text else "dark"


def go(page: Page, place: str) -> None:
    page.run(f"location.hash = '#/{place}'")


async def test_the_page_changes_as_pods_do(page: Page, cri: Cri, node: TestNode, busybox: str) -> None:
    go(page, "containers")
    sandbox_id, container_id = await pod(cri, "watched", busybox, ["sleep", "1000"])
    shows(page, "default/watched")
    row = f"document.querySelector('a[href*=\"{container_id}\"]')?.innerText ?? ''"
    page.until(f"({row}).includes('running')")
    page.until(f"/MiB|KiB/.test({row})", patience(20))
    page.shot(SHOTS / "containers.png")
    go(page, "pods")
    pod_row = f"document.querySelector('a[href*=\"{sandbox_id}\"]')"
    page.until(f"/%[^]*(MiB|KiB)/.test({pod_row}?.innerText)")
    page.until(f"{pod_row}.querySelectorAll('.spark .line[d^=M]').length === 2")
    go(page, f"pods/{sandbox_id}")
    page.until("/CPU\\s.*%[^]*Memory\\s.*[KM]iB/.test(document.querySelector('.part').innerText)")
    await cri.stop(container_id)
    shows(page, "1 of its containers are not well")
    page.until("!document.querySelector('.part').innerText.includes('CPU')")
    page.shot(SHOTS / "pod.png")
    go(page, "containers")
    page.until(f"/exit 1(37|43)/.test({row})")
    go(page, f"pods/{sandbox_id}")
    await cri.remove(container_id)
    shows(page, "0 of its 0 containers run")
    shows(page, "no containers")
    go(page, "containers")
    hides(page, "default/watched")
    go(page, "pods")
    shows(page, "default/watched")
    await cri.remove_sandbox(sandbox_id)
    hides(page, "default/watched")
    go(page, "events")
    shows(page, "sandbox removed")
    page.shot(SHOTS / "events.png")


async def test_a_page_of_a_container_shows_its_log_trace_and_processes(
    page: Page, cri: Cri, node: TestNode, busybox: str
) -> None:
    await cri.pull(busybox)
    sandbox = cri.sandbox_config("talker", host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    config = cri.container_config("talker", busybox, ["sh", "-c", TALKS])
    config.envs.append(cri_pb.KeyValue(key="PASSWORD", value=SECRET.encode()))
    config.annotations["vault/token"] = SECRET
    container_id = await cri.create(sandbox_id, config, sandbox)
    await cri.start(container_id)
    eventually(
        lambda: ask(node.run_dir, f"/api/v1/containers/{container_id}")[0] == 200,
        what="opsd knows the container",
    )
    page.goto(node.slipway("dashboard").stdout.strip())
    page.until("location.hash === '#/overview'")
    go(page, f"containers/{container_id}")
    shows(page, "talker")
    shows(page, "vault/token=")
    page.shot(SHOTS / "container.png")
    for digit, wanted, name in (
        ("2", "line 12", "log"),
        ("3", "CreateContainer", "trace"),
        ("4", "sleep 0.2", "processes"),
    ):
        page.press(digit)
        shows(page, wanted)
        page.shot(SHOTS / f"{name}.png")
    for path in ("", "/logs", "/processes", "/trace", "/why"):
        assert SECRET not in str(ask(node.run_dir, f"/api/v1/containers/{container_id}{path}"))
    assert SECRET not in str(ask(node.run_dir, "/api/v1/state"))
    assert SECRET not in str(ask(node.run_dir, "/api/v1/events?limit=2000"))
    await cri.stop(container_id)
    page.press("1")
    shows(page, "WHY")
    page.shot(SHOTS / "why.png")
    await cri.remove(container_id)
    shows(page, "is gone")
    trace = f"/api/v1/containers/{container_id}/trace"
    eventually(lambda: "container.remove" in str(ask(node.run_dir, trace)[1]), what="the spans of its end")
    page.press("3")
    shows(page, "container.remove")


async def test_a_pull_is_seen_while_it_goes_on(page: Page, cri: Cri, node: TestNode, shop: Registry) -> None:
    reference = shop.push("load/large", [layer([file("large", os.urandom(3 << 20))])], {})
    with half_sent(shop.address) as (address_, go_on):
        async with anyio.create_task_group() as group:
            group.start_soon(cri.pull, reference.replace(shop.address, address_))
            try:
                await anyio.to_thread.run_sync(shows, page, "PULLS IN PROGRESS")
                await anyio.to_thread.run_sync(shows, page, "load/large")
                bar = "document.querySelector('.pull').innerText"
                await anyio.to_thread.run_sync(page.until, f"/1.*MiB of 3/.test({bar})", patience(15))
                page.shot(SHOTS / "pull.png")
            finally:
                go_on.set()
        hides(page, "PULLS IN PROGRESS")


@contextmanager
def half_sent(upstream: str) -> Iterator[tuple[str, threading.Event]]:
    """A registry before another that keeps back the second half of large blobs until it is told to go on."""
    go_on = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = urllib.request.Request(f"http://{upstream}{self.path}", method=self.command)
            asked.headers.update({"Accept": self.headers.get("Accept", "*/*")})
            with urllib.request.urlopen(asked, timeout=patience(20)) as answer:
                body = answer.read()
                self.send_response(answer.status)
                kept = ("Content-Type", "Content-Length", "Docker-Content-Digest")
                for name in filter(answer.headers.get, kept):
                    self.send_header(name, answer.headers[name])
            self.end_headers()
            half = len(body) // 2 if len(body) > 1 << 20 else len(body)
            self.wfile.write(body[:half])
            self.wfile.flush()
            if half < len(body):
                go_on.wait(patience(60))
                self.wfile.write(body[half:])

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", go_on
    finally:
        go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


async def test_nothing_that_a_container_says_becomes_part_of_the_page(
    page: Page, cri: Cri, node: TestNode, busybox: str
) -> None:
    hostile = "<img src=x onerror=window.hacked=1>"
    await cri.pull(busybox)
    sandbox = cri.sandbox_config("hostile", host_network=True)
    sandbox.metadata.name = hostile
    sandbox_id = await cri.run_sandbox(sandbox)
    script = "echo '<script>window.hacked=2</script>'; printf '\\033]0;title\\007\\033[31mred\\n'; sleep 1000"
    config = cri.container_config("main", busybox, ["sh", "-c", script])
    config.metadata.name = "<svg onload=window.hacked=3>"
    config.log_path = "0.log"
    config.labels["javascript"] = "javascript:window.hacked=4"
    container_id = await cri.create(sandbox_id, config, sandbox)
    await cri.start(container_id)
    for place in ("overview", "containers", "pods", "events"):
        go(page, place)
        shows(page, "onload=" if place == "containers" else "onerror=")
    page.goto(node.slipway("dashboard").stdout.strip())
    page.until("location.hash === '#/overview'")
    go(page, f"containers/{container_id}")
    shows(page, "javascript=javascript:")
    page.press("2")
    shows(page, "<script>window.hacked=2</script>")
    assert page.run("window.hacked ?? 'safe'") == "safe"
    assert page.run("[...document.querySelectorAll('main img, main svg[onload], main script')].length") == 0
    assert page.run("/[\\u0000-\\u0008\\u001b]/.test(document.body.innerText)") is False


async def test_nats_away_is_said_and_the_page_recovers_by_itself(
    page: Page, cri: Cri, node: TestNode, busybox: str
) -> None:
    nats = node.pid("nats")
    os.kill(nats, signal.SIGSTOP)
    try:
        shows(page, "NATS is away", 20)
        page.shot(SHOTS / "nats-away.png")
    finally:
        os.kill(nats, signal.SIGCONT)
    hides(page, "NATS is away")
    go(page, "containers")
    await pod(cri, "afterwards", busybox, ["sleep", "1000"])
    shows(page, "default/afterwards")


async def test_opsd_that_ends_is_said_and_found_again(page: Page, node: TestNode) -> None:
    node.kill("opsd")
    page.until("document.body.innerText.includes('lost')", patience(15))
    shows(page, "live", 30)
    page.listen()
    # a connection that breaks is an error on the console, and nothing else is
    assert all("Failed to load resource" in problem for problem in page.problems)
    page.problems.clear()


async def test_all_is_reached_by_keyboard(page: Page, cri: Cri, busybox: str) -> None:
    for name in ("alpha", "beta", "gamma"):
        await pod(cri, name, busybox, ["sleep", "1000"])
    page.press("g", "c")
    page.until("location.hash === '#/containers'")
    shows(page, "default/gamma")
    page.press("/", *"beta")
    hides(page, "default/gamma")
    page.press("Escape", "Escape")
    shows(page, "default/gamma")
    page.press("j", "j", "Enter")
    page.until("location.hash.startsWith('#/containers/')")
    page.press("Escape")
    page.until("location.hash === '#/containers'")
    page.press("?")
    page.until("!!document.querySelector('dialog[open]')")
    page.shot(SHOTS / "keys.png")
    page.press("Escape")
    page.until("!document.querySelector('dialog[open]')")
    page.press("t", "t")
    page.until("document.documentElement.dataset.theme === 'dark'")
    assert looks(page) == "dark"
    page.press("t")
    page.until("!document.documentElement.dataset.theme")
    assert looks(page) == "light"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_a_phone(page: Page, cri: Cri, busybox: str, scheme: str) -> None:
    _, container_id = await pod(cri, f"phone-{scheme}", busybox, ["sleep", "1000"])
    page.scheme(scheme)
    assert looks(page) == scheme
    page.size(360, 720, scale=2, phone=True)
    for place in ("overview", "containers", "pods", "events", f"containers/{container_id}"):
        go(page, place)
        shows(page, f"phone-{scheme}" if place in ("containers", "pods") else "Slipway")
        assert page.run("document.documentElement.scrollWidth") <= 360, place
        page.shot(SHOTS / f"phone-{place.partition('/')[0]}-{scheme}.png")


async def test_actions_want_the_token(page: Page, cri: Cri, node: TestNode, busybox: str) -> None:
    _, container_id = await pod(cri, "stoppable", busybox, ["sleep", "1000"])
    eventually(
        lambda: ask(node.run_dir, f"/api/v1/containers/{container_id}")[0] == 200,
        what="opsd knows the container",
    )
    token = (node.data_dir / "opsd" / "token").read_text()
    assert (node.data_dir / "opsd" / "token").stat().st_mode & 0o777 == 0o600
    path = f"/api/v1/containers/{container_id}/kill"
    assert ask(node.run_dir, path, "POST")[0] == 403
    assert ask(node.run_dir, path, "POST", "wrong")[0] == 403
    go(page, f"containers/{container_id}")
    shows(page, "stop\nkill")
    page.click(".actions button.danger")
    page.until("!!document.querySelector('dialog[open] input')")
    page.press(*"wrong", "Enter")
    shows(page, "That is not the token")
    page.run("document.querySelector('dialog[open] input').value = ''")
    page.press(*token, "Enter")
    shows(page, "Kill container")
    page.shot(SHOTS / "action.png")
    page.press("Tab", "Enter")  # to cancel is what Enter does at first
    await exited(cri, container_id)
    shows(page, "exit 137")


async def test_logs_and_processes_are_shown_to_who_has_the_token(
    page: Page, cri: Cri, node: TestNode, busybox: str
) -> None:
    _, container_id = await pod(cri, "private", busybox, ["sh", "-c", TALKS])
    eventually(
        lambda: ask(node.run_dir, f"/api/v1/containers/{container_id}")[0] == 200,
        what="opsd knows the container",
    )
    go(page, f"containers/{container_id}")
    for digit, there in (("2", "line 3"), ("4", "sleep 0.2")):
        page.press(digit)
        shows(page, "want the token")
        assert there not in page.run("document.querySelector('.part').innerText")
    page.shot(SHOTS / "locked.png")
    page.click(".locked button")
    page.until("!!document.querySelector('dialog[open] input')")
    page.press(*(node.data_dir / "opsd" / "token").read_text(), "Enter")
    shows(page, "sleep 0.2")
    page.press("2")
    shows(page, "line 3")
    page.run("sessionStorage.clear()")
    page.goto(node.slipway("dashboard").stdout.strip())  # in a page that is open already
    page.until("location.hash === '#/overview'")
    assert page.run("history.length > 1 && !document.URL.includes('token')")
    go(page, f"containers/{container_id}")
    page.press("2")
    shows(page, "line 3")
    page.listen()
    # the refused requests are on the console
    page.problems[:] = [each for each in page.problems if "status of 403" not in each]


async def test_the_log_of_events_is_shown_as_it_was(
    page: Page, cri: Cri, node: TestNode, busybox: str
) -> None:
    first = await pod(cri, "earlier", busybox, ["sleep", "1000"])
    eventually(
        lambda: ask(node.run_dir, "/api/v1/events?text=earlier")[1]["events"], what="the event is held"
    )
    at = ask(node.run_dir, f"/api/v1/events?id={first[1]}")[1]["events"][-1]["at"]
    until_s = int(at / 1000) + 1  # the field has whole seconds
    await anyio.sleep(max(0.0, until_s - time.time()))
    await pod(cri, "latecomer", busybox, ["sleep", "1000"])
    go(page, "events")
    shows(page, "latecomer")
    page.run(
        "(() => { const e = document.querySelector('input[type=datetime-local]');"
        f"const d = new Date({until_s * 1000} - new Date().getTimezoneOffset() * 60000); e.value = d.toISOString().slice(0, 19);"
        "e.dispatchEvent(new Event('change')); })()"
    )
    shows(page, "ago")
    shows(page, "earlier")
    hides(page, "latecomer")
