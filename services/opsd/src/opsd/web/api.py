"""What the page and the command line ask by HTTP. JSON; times are Unix milliseconds, sizes bytes.

| Request | Answer |
|---|---|
| `GET /` | the page, and its files beside it |
| `GET /api/v1/stream` | server-sent events: `state` with everything, then `patch` (opsd.web.live); `after=` the last event known |
| `GET /api/v1/state` | everything, once |
| `GET /api/v1/events` | the log of the past: `node kind verb id text limit`, and `since` or `until`; `more` when there may be others, beyond `reached` (opsd.history) |
| `GET /api/v1/containers/ID` | all of one container that may be shown (opsd.agent.detail) |
| `GET /api/v1/containers/ID/logs` | `lines` as [time, stream, text, whole line], `cursor` for the next request (`cursor=`), `skipped`; wants the token |
| `GET /api/v1/containers/ID/processes` | its processes with the node's pids; wants the token |
| `GET /api/v1/containers/ID/why`, `/pods/ID/why` | `verdict`, `cause`, `next_steps` and `evidence` |
| `GET /api/v1/containers/ID/trace`, `/pods/ID/trace`, `/traces/ID` | `spans` with `start` (ms), `ms`, `parent`, `service` |
| `GET /api/v1/session` | whether the request carries the token, and whether one is wanted for reading |
| `GET /api/v1/link` | on the Unix socket: `url`, the page with the token in its fragment, which browsers send to no server |
| `POST /api/v1/containers/ID/{stop,kill,remove}`, `/pods/ID/{stop,remove}` | actions; want the token |

ID is an id or the unambiguous beginning of one, on any node. The token goes in `Authorization: Bearer TOKEN`; the Unix
socket is root's, and answers all but actions without it. An error has its HTTP status, and `{"error": CLASS, "message": SENTENCE}`.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import anyio
import msgspec

from common import errors
from common.observe.log import get_logger
from opsd import history
from opsd.agent.pulse import Pulse
from opsd.agent.seal import sealed
from opsd.cluster import Cluster
from opsd.fleet import Fleet
from opsd.news import Question
from opsd.web import live
from opsd.web.assets import Assets
from opsd.web.guard import Guard
from opsd.web.server import Reply, Request

STATUS: dict[type[errors.SlipwayError], int] = {
    errors.InvalidArgumentError: 400,
    errors.PermissionDeniedError: 403,
    errors.NotFoundError: 404,
    errors.FailedPreconditionError: 409,
    errors.AlreadyExistsError: 409,
    errors.AbortedError: 409,
    errors.ResourceExhaustedError: 429,
    errors.UnimplementedError: 501,
    errors.UnavailableError: 503,
    errors.DeadlineExceededError: 504,
}
MAX_DIGITS = 6
MAX_SEQUENCE_DIGITS = 19
MAX_PAGES = 64
"""That follow at once; each wants its own patches."""
_OBJECT = re.compile(r"/api/v1/(containers|pods|traces)/([^/]+)(?:/([a-z]+))?")
_QUESTIONS = {
    ("containers", ""): "container",
    ("containers", "logs"): "logs",
    ("containers", "processes"): "processes",
    ("containers", "trace"): "trace",
    ("containers", "why"): "why",
    ("pods", "why"): "why",
    ("pods", "trace"): "trace",
}
_PRIVATE = ("logs", "processes")
"""What containers say and run: not for every user of the machine."""
_ACTIONS = {
    ("containers", "stop"): "stop",
    ("containers", "kill"): "kill",
    ("containers", "remove"): "remove",
    ("pods", "stop"): "stop_pod",
    ("pods", "remove"): "remove_pod",
}
_log = get_logger("api")


class Api:
    """The application behind the server."""

    def __init__(
        self,
        fleet: Fleet,
        cluster: Cluster,
        pulse: Pulse,
        guard: Guard,
        assets: Assets,
        node: str,
        token: str,
    ) -> None:
        self._fleet = fleet
        self._cluster = cluster
        self._pulse = pulse
        self._guard = guard
        self._assets = assets
        self._node = node
        self._token = token
        self._fixed: dict[str, Callable[[Request], Awaitable[Reply]]] = {
            "/api/v1/stream": self._stream,
            "/api/v1/state": self._state,
            "/api/v1/events": self._events,
            "/api/v1/session": self._session,
            "/api/v1/link": self._link,
        }

    async def __call__(self, request: Request) -> Reply:
        """Answer one request; errors are answers too."""
        try:
            self._guard.check_host(request)
            return await self._answer(request)
        except errors.SlipwayError as exc:
            status = next((STATUS[c] for c in type(exc).__mro__ if c in STATUS), 500)
            return _json({"error": exc.reason, "message": exc.message}, status)

    async def _answer(self, request: Request) -> Reply:
        if request.method == "POST":
            return await self._act(request)
        if request.method not in ("GET", "HEAD"):
            raise errors.InvalidArgumentError(f"method {request.method[:20]}: want GET or POST")
        if not request.path.startswith("/api/"):
            return self._assets.reply(request)
        if request.path == "/api/v1/session":
            return await self._session(request)
        self._guard.check_reading(request)
        if fixed := self._fixed.get(request.path):
            return await fixed(request)
        collection, object_id, part = _parts(request)
        if collection == "traces" or (part == "trace" and len(self._fleet.named(object_id)) != 1):
            return _json(await self._trace(object_id))
        what = _QUESTIONS.get((collection, part))
        if what is None:
            raise errors.NotFoundError(f"{request.path[:200]}: there is no such thing")
        if what in _PRIVATE:
            self._guard.check_private(request)
        node, whole = self._where(object_id)
        options = {name: each for name, each in request.query.items() if name in ("cursor", "lines")}
        lines = options.get("lines", "1")
        if not lines.isdecimal() or len(lines) > MAX_DIGITS:
            raise errors.InvalidArgumentError(f"lines {options['lines'][:20]!r}: want a number")
        return _json(await self._cluster.ask(node, Question(what=what, id=whole, options=options)))

    async def _act(self, request: Request) -> Reply:
        self._guard.check_acting(request)
        collection, object_id, part = _parts(request)
        what = _ACTIONS.get((collection, part))
        if what is None:
            raise errors.NotFoundError(f"{request.path[:200]}: there is no such action")
        node, whole = self._where(object_id)
        _log.info("action", what=what, id=whole, of=node)
        question = sealed(Question(what=what, id=whole), node, self._token)
        return _json(await self._cluster.ask(node, question))

    async def _stream(self, request: Request) -> Reply:
        after = request.query.get("after", "0")
        if not after.isdecimal() or len(after) > MAX_SEQUENCE_DIGITS:
            raise errors.InvalidArgumentError(f"after {after[:30]!r}: want the number of an event")
        if self._fleet.pages >= MAX_PAGES:
            raise errors.ResourceExhaustedError(f"{MAX_PAGES} pages follow already")
        pieces = live.stream(self._fleet, self._self(), int(after))
        return Reply(kind="text/event-stream", stream=pieces)

    async def _state(self, request: Request) -> Reply:
        return Reply(body=b"".join([piece async for piece in live.state(self._fleet, self._self())]))

    async def _events(self, request: Request) -> Reply:
        try:
            wanted = msgspec.convert(request.query, history.Wanted, strict=False)
        except msgspec.ValidationError as exc:
            raise errors.InvalidArgumentError(f"the filter of events: {exc}") from exc
        of_container = any(wanted.id in view.containers for view in self._fleet.nodes.values())
        return _json(await history.read(self._cluster.bus, wanted, of_container=of_container))

    async def _session(self, request: Request) -> Reply:
        allowed = self._guard.may_act(request)
        return _json({"token": allowed, "reading": allowed or self._guard.anonymous})

    async def _link(self, request: Request) -> Reply:
        if not request.local:
            raise errors.PermissionDeniedError("the link with the token is told on the Unix socket only")
        if not self._pulse.address:
            raise errors.UnavailableError("the page has no address: see the setting `http_address` of opsd")
        return _json({"url": f"{self._pulse.address}/#token={quote(self._token, safe='')}"})

    async def _trace(self, trace_id: str) -> Any:
        """Of every node that has spans of it, `missing` those that did not answer; also of a container or pod that is gone, by its whole id."""
        found: dict[str, Any] = {"traces": [], "spans": [], "missing": []}

        async def ask(node: str) -> None:
            try:
                told: Any = await self._cluster.ask(node, Question(what="trace", id=trace_id))
            except errors.SlipwayError:
                found["missing"].append(node)
                return
            found["spans"] += told["spans"]
            found["traces"] += told["traces"]

        async with anyio.create_task_group() as group:
            for view in self._fleet.nodes.values():
                if view.up:
                    group.start_soon(ask, view.name)
        return found

    def _where(self, object_id: str) -> tuple[str, str]:
        found = self._fleet.named(object_id)
        if not found:
            raise errors.NotFoundError(f"no container or pod of any node has the id {object_id[:80]!r}")
        if len(found) > 1:
            raise errors.InvalidArgumentError(
                f"{len(found)} containers and pods have ids that begin with {object_id[:80]!r}: give more of it"
            )
        return found[0]

    def _self(self) -> dict[str, Any]:
        return {"node": self._node}


def _parts(request: Request) -> tuple[str, str, str]:
    match = _OBJECT.fullmatch(request.path)
    if match is None:
        raise errors.NotFoundError(f"{request.path[:200]}: there is no such thing")
    return match[1], match[2], match[3] or ""


def _json(value: Any, status: int = 200) -> Reply:
    return Reply(status=status, body=msgspec.json.encode(value))
