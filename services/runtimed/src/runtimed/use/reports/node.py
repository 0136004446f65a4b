"""The node as a whole: is it ready, what can it do."""

import json
import shutil
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from common.api.cri.v1 import api_pb2 as cri
from common.errors import FailedPreconditionError, SlipwayError
from common.settings import shown
from common.sys.files import replace_file
from runtimed.network import template
from runtimed.use.parts import Parts

PROBE_S = 2.0
FRESH_S = 5.0
TEMPLATED = "10-slipway.conflist"


class Node:
    """Status and settings that a kubelet asks for."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._probed_at = -FRESH_S
        self._problem = ""
        self._asked_at = -FRESH_S
        self._asked: object = None

    async def status(self, *, verbose: bool) -> cri.StatusResponse:
        """Both conditions, the handlers and the features."""
        parts = self._parts
        network_problem = await self._network_problem()
        problem = await self._runtime_problem()
        response = cri.StatusResponse()
        response.status.conditions.extend(
            [
                _condition("RuntimeReady", "RuntimeNotReady", problem),
                _condition("NetworkReady", "NetworkPluginNotReady", network_problem),
            ]
        )
        for name in ("", *sorted(parts.settings.handlers)):
            can = await parts.features.of(name or parts.settings.default_handler)
            handler = response.runtime_handlers.add(name=name)
            handler.features.recursive_read_only_mounts = can.recursive_read_only
            handler.features.user_namespaces = can.user_namespaces
        response.features.supplemental_groups_policy = True
        response.features.mount_options = True
        if verbose:
            for topic, text in self._info(network_problem).items():
                response.info[topic] = text
        return response

    async def _network_problem(self) -> str:
        """Why pods get no network. Plugins are asked every 5 s at most, and at once when the configuration is new."""
        cni = self._parts.cni
        await anyio.to_thread.run_sync(cni.load)
        now = anyio.current_time()
        if cni.conf is not self._asked or now - self._asked_at >= FRESH_S:
            self._asked, self._asked_at = cni.conf, now
            await cni.status()
        ready, why = cni.ready()
        return "" if ready else why or "not ready"

    async def _runtime_problem(self) -> str:
        """Why containers cannot be started, from a probe at most 5 s old."""
        now = anyio.current_time()
        if now - self._probed_at >= FRESH_S:
            self._problem = await self._probe()
            self._probed_at = now
        return self._problem

    async def _probe(self) -> str:
        for name, probe in (("shimd", self._parts.shims.list), ("snapshotd", self._parts.snapshots.keys)):
            with anyio.move_on_after(PROBE_S) as scope:
                try:
                    await probe()
                except SlipwayError as exc:
                    return f"{name}: {exc.message}"
            if scope.cancelled_caught:
                return f"{name} does not answer"
        return ""

    def config(self) -> cri.RuntimeConfigResponse:
        """The cgroup driver, so that the kubelet takes the same."""
        systemd = self._parts.settings.cgroup_driver == "systemd"
        response = cri.RuntimeConfigResponse()
        response.linux.cgroup_driver = cri.SYSTEMD if systemd else cri.CGROUPFS
        return response

    async def update_config(self, request: cri.UpdateRuntimeConfigRequest) -> None:
        """Keep the pod CIDR that the kubelet tells, and make a network of it if there is a template and no network yet.

        Raises:
            InvalidArgumentError: a range is none.
            FailedPreconditionError: the template is wrong.
        """
        cidr = request.runtime_config.network_config.pod_cidr
        if not cidr:
            return
        pods = template.ranges(cidr)
        path = self._parts.data_dir / "pod-cidr"
        await anyio.to_thread.run_sync(replace_file, path, f"{cidr}\n".encode())
        await anyio.to_thread.run_sync(self._make_network, pods)

    def _make_network(self, pods: list[str]) -> None:
        cni, source = self._parts.cni, self._parts.settings.cni_conf_template
        cni.load()
        if not source or cni.ready()[0]:
            return
        try:
            body = template.conflist(Path(source).read_text(), pods)
            replace_file(cni.conf_dir / TEMPLATED, body)
        except OSError as exc:
            raise FailedPreconditionError(f"cni_conf_template: {exc.filename}: {exc.strerror}") from exc
        cni.load()

    def _info(self, network_problem: str) -> dict[str, str]:
        """What an operator looks for with `crictl info`, as JSON by topic."""
        parts = self._parts
        handlers = {
            name: {"program": shutil.which(handler.binary) or f"{handler.binary}: not found"}
            for name, handler in sorted(parts.settings.handlers.items())
        }
        network = parts.cni.conf
        facts = {
            "config": shown(parts.settings),
            "handlers": handlers,
            "cniconfig": msgspec.to_builtins(network) if network else None,
            "lastCNILoadStatus": network_problem or "OK",
            "counts": {
                "sandboxes": len(parts.sandboxes.store.all()),
                "containers": len(parts.containers.store.all()),
            },
        }
        return {topic: json.dumps(found) for topic, found in facts.items()}


def _condition(kind: str, reason: str, problem: str) -> cri.RuntimeCondition:
    if problem:
        return cri.RuntimeCondition(type=kind, status=False, reason=reason, message=problem)
    return cri.RuntimeCondition(type=kind, status=True)
