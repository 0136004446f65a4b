"""What the page makes of events, failures and refusals: with a node that is made up, in a real Chromium."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from common.events import schema
from devtools.chromium import Page
from opsd.web.api import MAX_PAGES
from tests.support.brokers import NatsServer, nats_server
from tests.support.browser import NEEDS_CHROMIUM, SHOTS
from tests.support.eventually import eventually
from tests.support.madeup import Conductor, madeup_node
from tests.support.opsd import Opsd, opsd
from tests.support.pace import patience

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.root,
    pytest.mark.integration,
    pytest.mark.timeout(180),
    NEEDS_CHROMIUM,
    pytest.mark.skipif(os.geteuid() != 0, reason="opsd's sockets are below /run"),
]
PIECES = 2_200
"""Events: more than the page reads at once."""
ERROR = "registry.example/lost: " + "the registry does not answer, " * 8 + "and that was all"


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(scope="module")
def on(nats: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opsd]:
    with opsd("alpha", tmp_path_factory.mktemp("opsd"), nats.url) as opened:
        yield opened


@pytest.fixture
def page(browser: Page, on: Opsd) -> Iterator[Page]:
    browser.problems.clear()
    browser.size(1280, 800)
    browser.scheme("light")
    browser.goto("about:blank")
    browser.goto(f"{eventually(lambda: own_address(on), what='the address')}/")
    shows(browser, "live")
    yield browser
    browser.listen()
    # a made-up node answers each question with its lists
    kept = [each for each in browser.problems if "Failed to load resource" not in each]
    assert kept == []


@pytest.fixture(scope="module")
def crowd(nats: NatsServer) -> Iterator[Conductor]:
    with madeup_node(nats.url, "crowd", 4) as made:
        yield made


def shows(page: Page, text: str) -> None:
    page.until(f"document.body?.innerText.includes({text!r})", patience(15))


def go(page: Page, place: str) -> None:
    page.run(f"location.hash = '#/{place}'")


def made(node: Conductor, name: str) -> schema.ContainerCreated:
    return schema.ContainerCreated(
        id=f"{abs(hash(name)):064x}", sandbox_id=node.node.pods[0].id, name=name, image="i"
    )


def test_the_selection_stays_with_its_row(page: Page, crowd: Conductor) -> None:
    go(page, "containers")
    shows(page, "worker-3")
    page.press("j", "j")
    name = "document.querySelector('.tr.selected .td.name').firstChild.data"
    chosen = page.run(name)
    crowd.publish(made(crowd, "newcomer"))
    shows(page, "newcomer")
    assert page.run(name) == chosen
    page.press("Enter")
    shows(page, chosen)
    assert page.run("document.querySelector('h1').innerText") == chosen


def test_a_pod_uses_what_its_containers_that_run_use_together(page: Page, crowd: Conductor) -> None:
    go(page, "pods")
    read = """import('/store.js').then(({ store }) => { const pod = [...store.pods.values()].find(p => p.name === 'pod-0');
        const uses = store.members(pod.id).filter(c => c.state === 'running').map(c => store.use.get(c.id)?.memory.at(-1) ?? 0);
        return [uses.length, uses.reduce((a, b) => a + b, 0), store.useOfPod(pod.id)?.memory.at(-1)]; })"""
    count, summed, shown = eventually(lambda: (found := page.run(read))[1] > 0 and found, what="readings")
    assert count > 1
    assert shown == summed


def test_a_row_leads_where_its_own_event_does_and_one_that_leads_nowhere_opens(
    page: Page, crowd: Conductor
) -> None:
    go(page, "events?kind=container")
    crowd.publish(made(crowd, "linked"))
    shows(page, "linked")
    assert page.run("!!document.querySelector('.tbody a.tr[href]')")
    crowd.publish(schema.PullFailed(id="registry.example/lost", error=ERROR))
    page.click("button[data-option=image]")
    shows(page, "image pull failed")
    assert page.run("document.querySelectorAll('.tbody a.tr[href]:not([hidden])').length") == 0
    cell = ".tbody .tr:not([hidden]) .td.facts"
    page.run(f"document.querySelector('{cell}').dispatchEvent(new Event('pointerover', {{bubbles: true}}))")
    assert ERROR in page.run(f"document.querySelector('{cell}').title")
    page.size(360, 720, scale=2, phone=True)
    page.click(".tbody .tr:not([hidden])")
    shows(page, ERROR)
    page.shot(SHOTS / "phone-event.png")
    page.press("Escape")
    page.press("j", "Enter")
    shows(page, ERROR)
    page.press("Escape")


def test_attention_is_for_pods_pulls_and_nodes_too(page: Page, crowd: Conductor, nats: NatsServer) -> None:
    victim = crowd.node.pods[1]
    feed = "document.querySelector('.columns .feed').innerText"
    with madeup_node(nats.url, "silent", 0):
        shows(page, "silent")
    crowd.publish(
        schema.SandboxFailed(id=victim.id, error="no network"),
        schema.PullStarted(id="registry.example/lost"),
        schema.PullFailed(id="registry.example/lost", error=ERROR),
        schema.ContainerExited(
            id=crowd.node.containers[3].id, sandbox_id=victim.id, exit_code=1, reason="Error"
        ),
    )
    for wanted in (f"load/{victim.name}", "registry.example/lost", "worker-3", "silent"):
        page.until(f"{feed}.includes({wanted!r})", patience(20))
    for scheme in ("light", "dark"):
        page.scheme(scheme)
        page.shot(SHOTS / f"attention-{scheme}.png")
    page.size(360, 720, scale=2, phone=True)
    page.run("document.querySelector('.columns').scrollIntoView()")
    page.shot(SHOTS / "phone-attention.png")
    crowd.publish(schema.ImagePulled(id="sha256:1", reference="registry.example/lost"))
    page.until(f"!{feed}.includes('pull failed')", patience(15))


def test_a_second_press_of_play_pauses(page: Page, crowd: Conductor) -> None:
    crowd.publish(made(crowd, "played"))
    go(page, "events")
    shows(page, "played")
    page.run(
        "(() => { const kept = window.setInterval; window.timers = new Set(); const clear = window.clearInterval;"
        " window.setInterval = (...a) => { const t = kept(...a); window.timers.add(t); return t; };"
        " window.clearInterval = t => { window.timers.delete(t); clear(t); }; })()"
    )
    play = "document.querySelector('button[title^=Play]')"
    page.run(f"{play}.click(); {play}.click(); {play}.click(); {play}.click()")
    page.run("fetch('/api/v1/events?since=1').then(a => a.text())")
    assert page.run(f"{play}.innerText") == "▶"
    assert page.run("window.timers.size") == 0
    page.run(f"{play}.click()")
    page.until("window.timers.size === 1", patience(15))
    page.run(f"{play}.click()")
    assert page.run("window.timers.size") == 0
    page.run(f"{play}.click()")
    go(page, "overview")
    shows(page, "ATTENTION")
    page.run("fetch('/api/v1/events?since=1').then(a => a.text())")
    assert page.run("window.timers.size") == 0


def test_playing_reads_on_where_a_piece_ends(page: Page, crowd: Conductor) -> None:
    victim = crowd.node.containers[0]
    go(page, "events?kind=container")
    # of many containers, as of a single one no more than the last few are kept
    crowd.publish(
        *(schema.ContainerUpdated(id=f"{number:064x}", sandbox_id=victim.pod) for number in range(PIECES))
    )
    shows(page, "container updated")
    page.run("document.querySelector('button[title=Speed]').click()")
    page.run("performance.clearResourceTimings()")
    page.click("button[title^=Play]")
    asked = "performance.getEntriesByType('resource').filter(e => e.name.includes('since=')).length"
    page.until(f"{asked} > 1", patience(30))


def test_a_page_too_many_says_so(browser: Page, on: Opsd, crowd: Conductor) -> None:
    browser.goto("about:blank")
    url = eventually(lambda: own_address(on), what="the address")
    with ExitStack() as followers:
        for _ in range(MAX_PAGES):
            follow(followers.enter_context(socket.socket(socket.AF_UNIX)), on)
        browser.goto(url)
        shows(browser, f"{MAX_PAGES} pages follow already")
        assert "Nothing failed" not in browser.run("document.body.innerText")
        assert browser.run("document.querySelector('.tile strong').innerText") == "\u2013"
        browser.shot(SHOTS / "full.png")
    shows(browser, "live")


def own_address(on: Opsd) -> str:
    return next((node["address"] for node in on.state()["nodes"] if node["name"] == on.node), "")


def follow(client: socket.socket, on: Opsd) -> None:
    """Follow as one more page does."""
    client.settimeout(patience(15))
    client.connect(str(on.run_dir / "opsd" / "http.sock"))
    client.sendall(b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b" 200 " in client.recv(1 << 10)


def test_who_gives_no_token_is_told_what_is_wanted(browser: Page, nats: NatsServer, tmp_path: Path) -> None:
    with opsd("closed", tmp_path, nats.url, anonymous="false", token="t") as closed:
        browser.goto("about:blank")
        browser.goto(eventually(lambda: own_address(closed), what="the address"))
        browser.until("!!document.querySelector('dialog[open]')", patience(15))
        browser.press("Escape")
        shows(browser, "wants its token")
        browser.click(".banner button")
        browser.until("!!document.querySelector('dialog[open] input')", patience(15))
        browser.press("t", "Enter")
        shows(browser, "live")


@pytest.mark.parametrize("width", [360, 390, 761, 850, 950])
def test_the_last_column_is_in_sight(page: Page, crowd: Conductor, width: int) -> None:
    page.size(width, 700, phone=width < 400)
    for place in ("containers", "pods"):
        go(page, place)
        page.until("document.querySelector('.tbody .td.age')?.innerText", patience(15))
        right = page.run("document.querySelector('.tbody .td.age').getBoundingClientRect().right")
        assert right <= width, place
        page.shot(SHOTS / f"width-{width}-{place}.png")


def test_an_address_that_is_none_is_a_page(page: Page, crowd: Conductor) -> None:
    go(page, "containers/%E0%A4%A")
    shows(page, "is gone")


def test_an_ambiguous_id_is_not_an_unknown_one(on: Opsd, crowd: Conductor) -> None:
    crowd.publish(
        *(
            schema.ContainerCreated(
                id=f"feed{n}" + "0" * 59, sandbox_id=crowd.node.pods[0].id, name=f"f{n}", image="i"
            )
            for n in range(2)
        )
    )
    several = eventually(
        lambda: (found := on.ask("/api/v1/containers/feed"))[0] == 400 and found, what="both are known"
    )
    assert "2 containers and pods" in several[1]["message"]
    assert on.ask("/api/v1/containers/nobody")[0] == 404
