"""A real Chromium without a window, driven through its DevTools pipe: for the tests and benchmarks of the dashboard."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import DeadlineExceededError, FailedPreconditionError, InternalError, NotFoundError

PROGRAM = "chromium"
ANSWER_S = 30.0
END_S = 10.0
POLL_S = 0.02
LOAD_S = 60.0
LOADS = 5
CUT_OFF = "ERR_NETWORK_CHANGED"
"""What Chromium ends its requests with, also those to loopback, when an interface of the machine comes or goes."""
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
_KEYS = {"Enter": ("Enter", 13, "\r"), "Escape": ("Escape", 27, ""), "Tab": ("Tab", 9, "")}
_CHUNK_BYTES = 1 << 20


class Page:
    """One page. `problems` is what went wrong in it: exceptions, errors on its console, refusals of its policy."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._number = 0
        self._buffer = b""
        self._session = ""
        self._loaded = False
        self._cut_off = False
        self.problems: list[str] = []

    def open(self) -> None:
        """Have a page to work with."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """One command of the DevTools protocol.

        Raises:
            InternalError: Chromium refuses it.
            DeadlineExceededError: no answer.
        """
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write_fd, data) :]
        deadline = time.monotonic() + ANSWER_S
        while (answer := self._next(deadline)).get("id") != self._number:
            self._note(answer)
        if "error" in answer:
            raise InternalError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def goto(self, url: str) -> None:
        """Load a page, or another place of this one; once more where the machine's network changed meanwhile.

        Raises:
            DeadlineExceededError: it does not load.
        """
        for _ in range(LOADS):
            self._loaded = self._cut_off = False
            went = self.call("Page.navigate", url=url)
            if "loaderId" not in went:
                return
            if CUT_OFF not in went.get("errorText", ""):
                self._await_load(url)
                if not self._cut_off:
                    return
        raise DeadlineExceededError(
            f"{url}: the network of this machine changed during each of {LOADS} loads"
        )

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise.

        Raises:
            InternalError: it threw.
        """
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise InternalError(
                f"{script}: {details.get('exception', {}).get('description', details['text'])}"
            )
        return found["result"].get("value")

    def until(self, script: str, within_s: float = 15.0) -> Any:
        """The first true value of an expression.

        Raises:
            DeadlineExceededError: it has none in time; with the text of the page.
        """
        deadline = time.monotonic() + within_s
        while not (found := self.run(script)):
            if time.monotonic() > deadline:
                text = self.run("document.body.innerText")
                raise DeadlineExceededError(f"not within {within_s:.0f} s: {script}\n{text}\n{self.problems}")
            select.select([], [], [], POLL_S)
        return found

    def press(self, *keys: str) -> None:
        """Press keys: characters, or Enter, Escape and Tab."""
        for key in keys:
            name, code, text = _KEYS.get(key, (key, ord(key[0].upper()), key))
            event = {"key": name, "windowsVirtualKeyCode": code, "text": text}
            self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **event)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=name, windowsVirtualKeyCode=code)

    def click(self, selector: str) -> None:
        """Click the middle of the first element that fits, as a pointer does."""
        box = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'nearest'}});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        point = {"x": box[0], "y": box[1], "button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", **point)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **point)

    def size(self, width: int, height: int, *, scale: float = 1, phone: bool = False) -> None:
        """The size of the window in its own pixels, of which each is `scale` wide."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=phone,
        )

    def scheme(self, name: str) -> None:
        """`light` or `dark`, as a person prefers."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def shot(self, path: Path) -> None:
        """Keep a picture of what is in sight."""
        path.parent.mkdir(parents=True, exist_ok=True)
        found = self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(found["data"]))

    def listen(self) -> None:
        """Take what Chromium told meanwhile into `problems`."""
        self.call("Target.getTargetInfo")  # of the browser: a page that goes elsewhere meanwhile refuses

    def _await_load(self, url: str) -> None:
        deadline = time.monotonic() + LOAD_S
        while not self._loaded:
            if time.monotonic() > deadline:
                raise DeadlineExceededError(f"{url} is not loaded within {LOAD_S:.0f} s: {self.problems}")
            self.listen()
            select.select([], [], [], POLL_S)

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([self._read_fd], [], [], left_s)[0]:
                raise DeadlineExceededError(f"chromium does not answer within {ANSWER_S:.0f} s")
            data = os.read(self._read_fd, _CHUNK_BYTES)
            if not data:
                raise InternalError("chromium ended")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Page.loadEventFired":
            self._loaded = True
        elif event.get("method") == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            if CUT_OFF in parameters["entry"]["text"]:
                self._cut_off = True
            else:
                self.problems.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")
        elif event.get("method") == "Runtime.consoleAPICalled" and parameters["type"] == "error":
            self.problems.append(str([each.get("value") for each in parameters["args"]]))


@contextmanager
def chromium(directory: Path) -> Iterator[Page]:
    """A Chromium with one page; its profile is a new folder in `directory`.

    Raises:
        NotFoundError: it is not installed.
        FailedPreconditionError: it does not start.
    """
    if not shutil.which(PROGRAM):
        raise NotFoundError(f"{PROGRAM} is not installed: apt-get install {PROGRAM}")
    profile = directory / f"chromium-{time.monotonic_ns()}"
    profile.mkdir(parents=True)
    commands, write_fd = os.pipe()
    read_fd, answers = os.pipe()
    # it speaks on 3 and 4
    command = ["bash", "-c", f'exec "$@" 3<&{commands} 4>&{answers}', "chromium", PROGRAM, *_FLAGS]
    command += [f"--user-data-dir={profile}", "about:blank"]
    with (profile / "stderr").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(commands, answers),
            start_new_session=True,
        )
    os.close(commands)
    os.close(answers)
    page = Page(read_fd, write_fd)
    try:
        try:
            page.open()
        except (InternalError, DeadlineExceededError, BrokenPipeError) as exc:
            told = (profile / "stderr").read_text(errors="replace")[-500:]
            raise FailedPreconditionError(f"{PROGRAM} does not start: {exc}: {told}") from exc
        yield page
    finally:
        os.close(write_fd)
        os.close(read_fd)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(END_S)
        shutil.rmtree(profile, ignore_errors=True)
