"""CNI: the node's network configuration, and its plugins run for a sandbox.

Plugins are run directly, as the CNI specification says, chained by prevResult. What an ADD was given is cached
before it runs, so that a DEL runs with the same even when the configuration has changed or the daemon died.
"""

import re
import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from common import cniconf
from common.errors import FailedPreconditionError, NotFoundError, SlipwayError, UnavailableError
from common.observe.log import get_logger
from common.observe.trace import traceparent
from common.sys.files import replace_file
from runtimed.network import cniexec, cniresult
from runtimed.network.cniresult import CniResult
from runtimed.network.netns import is_namespace

ADD_S, DEL_S, CHECK_S, STATUS_S = 300.0, 60.0, 60.0, 10.0
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

log = get_logger("runtimed")


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """A sandbox's wish for a network interface."""

    sandbox_id: str
    netns_path: str
    pod_name: str
    pod_namespace: str
    pod_uid: str
    interface: str = "eth0"
    port_mappings: list[dict[str, Any]] = []
    dns: dict[str, list[str]] = {}
    bandwidth: dict[str, int] = {}
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    cgroup_path: str = ""


class Cached(msgspec.Struct, frozen=True):
    """What is remembered of an ADD; without result as long as it has not succeeded."""

    attachment: Attachment
    conf: cniconf.NetworkConf
    result: dict[str, Any] | None = None


class _Found(msgspec.Struct, frozen=True):
    """A configuration, or why there is none; or what is wrong with it."""

    conf: cniconf.NetworkConf | None
    why: str = ""


_NONE = "no network configuration in {}: put a *.conflist there, or give the pod the node's network"


class Cni:
    """Runs the plugins of the first valid network configuration in a directory."""

    def __init__(self, conf_dir: str, bin_dirs: list[str], cache_dir: str) -> None:
        self.conf_dir, self.bin_dirs, self.cache_dir = Path(conf_dir), bin_dirs, Path(cache_dir)
        self._loading = threading.Lock()
        self._stamp: object = None
        self._found = _Found(None, _NONE.format(conf_dir))
        self._trouble = _Found(None)
        """What plugins last told, and of which configuration."""

    def load(self) -> None:
        """Read the directory again if it changed. Blocking, and cheap when it did not.

        Threads of requests do so at once: what was found before is in use until all of the new is read.
        """
        with self._loading:
            files = cniconf.candidates(self.conf_dir)
            stamp = [(str(path), _stamp(path)) for path in files]
            if stamp != self._stamp:
                self._found = self._first(files)
                self._stamp = stamp

    def _first(self, files: list[Path]) -> _Found:
        why = _NONE.format(self.conf_dir)
        for path in files:
            try:
                return _Found(cniconf.read(path))
            except SlipwayError as error:
                why = error.message
                log.warning("cni.conf.refused", path=str(path), reason=error.message)
        return _Found(None, why)

    @property
    def conf(self) -> cniconf.NetworkConf | None:
        """The configuration in use."""
        return self._found.conf

    def ready(self) -> tuple[bool, str]:
        """Whether sandboxes can get a network, and why not."""
        found, trouble = self._found, self._trouble
        if found.conf is None:
            return False, f"cni plugin not initialized: {found.why}"
        why = self._missing(found.conf) or (trouble.why if trouble.conf is found.conf else "")
        return not why, why

    def _missing(self, conf: cniconf.NetworkConf) -> str:
        """Which plugin of a configuration is not installed, as a sentence; empty when all are. Blocking."""
        for plugin in conf.plugins:
            if cniexec.find(plugin["type"], self.bin_dirs) is None:
                return f"cni plugin {plugin['type']!r} is in none of {':'.join(self.bin_dirs)}"
        return ""

    async def add(self, attachment: Attachment) -> CniResult:
        """Attach. After a failure or a cancellation it is the caller's to `delete`, as it is after a crash.

        Raises:
            FailedPreconditionError: the node has no network configuration, or a plugin is missing or refuses it.
            UnavailableError: a plugin failed, took too long or answered what is no result, with its name and why;
                or the sandbox has got no address.
        """
        await anyio.to_thread.run_sync(self.load)
        conf = self._current()
        if missing := await anyio.to_thread.run_sync(self._missing, conf):
            raise FailedPreconditionError(missing)  # before any plugin has done a thing
        for name in _unserved(conf, attachment):
            # not refused: some networks learn of these from the Kubernetes API
            log.warning("cni.capability.absent", sandbox_id=attachment.sandbox_id, capability=name)
        await self._remember(Cached(attachment, conf), durable=False)
        result = CniResult([], {})
        previous: dict[str, Any] | None = None
        try:
            with anyio.fail_after(ADD_S):
                for plugin in conf.plugins:
                    answer = await self._run("ADD", plugin, conf, attachment, previous)
                    result = cniresult.parse(plugin["type"], answer, attachment.interface)
                    previous = result.raw
        except TimeoutError as error:
            raise UnavailableError(f"cni network {conf.name!r}: ADD took over {ADD_S:.0f} s") from error
        await self._remember(Cached(attachment, conf, result.raw), durable=True)
        if not result.ips:  # a kubelet makes a sandbox without one again, and again
            raise UnavailableError(f"cni network {conf.name!r} gave the pod no address")
        return result

    async def delete(self, attachment: Attachment) -> None:
        """Detach; idempotent. All plugins are run, with what their ADD had; the first failure is raised after.

        When ADD never came to its end, a plugin that is not installed has nothing to take back, and a configuration of the
        network that was changed since may do what the old one cannot: without that, a sandbox of a network that
        never worked could not be removed.

        Raises:
            UnavailableError: a plugin failed; the cache is kept for the next try.
            FailedPreconditionError: the cache cannot be read, and the node has no network configuration instead.
        """
        cached = await self._recall(attachment)
        if cached is None:
            await anyio.to_thread.run_sync(self.load)
            if self.conf is None and not await anyio.Path(self._path(attachment)).exists():
                return
            cached = Cached(attachment, self._current())
        with anyio.CancelScope(shield=True):
            failure = await self._detach(cached)
            if failure and cached.result is None and (mended := await self._mended(cached.conf)):
                failure = await self._detach(Cached(cached.attachment, mended))
            if failure is None:
                await anyio.to_thread.run_sync(lambda: self._path(attachment).unlink(missing_ok=True))
        if failure is not None:
            raise failure

    async def _detach(self, cached: Cached) -> SlipwayError | None:
        """Run each plugin's DEL; the first failure."""
        failure: SlipwayError | None = None
        for plugin in reversed(cached.conf.plugins):
            if cached.result is None and cniexec.find(plugin["type"], self.bin_dirs) is None:
                log.warning("cni.del.skipped", sandbox_id=cached.attachment.sandbox_id, plugin=plugin["type"])
                continue
            try:
                with anyio.fail_after(DEL_S):
                    await self._run("DEL", plugin, cached.conf, cached.attachment, cached.result)
            except TimeoutError:
                error: SlipwayError = UnavailableError(
                    f"cni network {cached.conf.name!r}: DEL took over {DEL_S:.0f} s"
                )
            except SlipwayError as refused:
                error = refused
            else:
                continue
            failure = failure or error
            log.warning("cni.del.failed", sandbox_id=cached.attachment.sandbox_id, reason=error.message)
        return failure

    async def _mended(self, conf: cniconf.NetworkConf) -> cniconf.NetworkConf | None:
        """What the node's configuration has for the same network now, when that is something else."""
        await anyio.to_thread.run_sync(self.load)
        present = self.conf
        return present if present and present.name == conf.name and present != conf else None

    async def check(self, attachment: Attachment) -> None:
        """Ask the plugins whether the attachment is still as ADD left it.

        Raises:
            NotFoundError: nothing was attached.
            UnavailableError: a plugin found something amiss.
        """
        cached = await self._recall(attachment)
        if cached is None or cached.result is None:
            raise NotFoundError(f"cni: sandbox {attachment.sandbox_id} has no attachment")
        if cached.conf.disable_check or not cached.conf.at_least(cniconf.CHECK_SINCE):
            return
        try:
            with anyio.fail_after(CHECK_S):
                for plugin in cached.conf.plugins:
                    await self._run("CHECK", plugin, cached.conf, cached.attachment, cached.result)
        except TimeoutError as error:
            raise UnavailableError(
                f"cni network {cached.conf.name!r}: CHECK took over {CHECK_S:.0f} s"
            ) from error

    async def status(self) -> tuple[bool, str]:
        """Like ready, after asking the plugins of a configuration of 1.1.0 or later (STATUS)."""
        await anyio.to_thread.run_sync(self.load)
        conf = self.conf
        if conf is None or not conf.at_least(cniconf.STATUS_SINCE):
            return self.ready()
        why = ""
        try:
            with anyio.fail_after(STATUS_S):
                for plugin in conf.plugins:
                    await self._run("STATUS", plugin, conf, None, None)
        except SlipwayError as error:
            why = error.message
        except TimeoutError:
            why = f"cni network {conf.name!r}: STATUS took over {STATUS_S:.0f} s"
        self._trouble = _Found(conf, why)
        return self.ready()

    def cached(self) -> list[Attachment]:
        """Attachments that were tried and not yet deleted, for the reconciler. Blocking.

        One that cannot be read any more has its name alone.
        """
        found = [(path, _decode(path)) for path in sorted(self.cache_dir.glob("*.json"))]
        return [item.attachment if item else _named(path) for path, item in found]

    def _current(self) -> cniconf.NetworkConf:
        found = self._found
        if found.conf is None:
            raise FailedPreconditionError(f"cni plugin not initialized: {found.why}")
        return found.conf

    async def _run(
        self,
        verb: str,
        plugin: dict[str, Any],
        conf: cniconf.NetworkConf,
        attachment: Attachment | None,
        previous: dict[str, Any] | None,
    ) -> bytes:
        config = {key: value for key, value in plugin.items() if key != "capabilities"}
        config |= {"name": conf.name, "cniVersion": conf.version}
        env = {"CNI_COMMAND": verb, "CNI_PATH": ":".join(self.bin_dirs), "TRACEPARENT": traceparent()}
        if attachment is not None:
            if capabilities := _runtime_config(plugin.get("capabilities"), attachment):
                config["runtimeConfig"] = capabilities
            env |= _env(verb, attachment)
        # Plugins older than 0.4.0 know no previous result in a DEL.
        if previous is not None and (verb == "ADD" or conf.at_least(cniconf.CHECK_SINCE)):
            config["prevResult"] = previous
        return await cniexec.run(plugin["type"], self.bin_dirs, config, env)

    def _path(self, attachment: Attachment) -> Path:
        for text in (attachment.sandbox_id, attachment.interface):
            if not _KEY.fullmatch(text):
                raise FailedPreconditionError(f"cni: {text!r} is no id")
        return self.cache_dir / f"{attachment.sandbox_id}-{attachment.interface}.json"

    async def _remember(self, cached: Cached, *, durable: bool) -> None:
        path, content = self._path(cached.attachment), msgspec.json.encode(cached)

        def write() -> None:
            if durable:
                replace_file(path, content)
                return
            # A power cut takes the namespace too: this one is for a crash of the daemon only.
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(content)
            temporary.replace(path)

        await anyio.to_thread.run_sync(write)

    async def _recall(self, attachment: Attachment) -> Cached | None:
        return await anyio.to_thread.run_sync(_decode, self._path(attachment))


def _decode(path: Path) -> Cached | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Cached)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, msgspec.ValidationError):
        log.warning("cni.cache.corrupt", path=str(path))
        return None


def _named(path: Path) -> Attachment:
    sandbox_id, _, interface = path.stem.partition("-")
    return Attachment(
        sandbox_id=sandbox_id,
        interface=interface,
        netns_path="",
        pod_name="",
        pod_namespace="",
        pod_uid="",
    )


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def _env(verb: str, attachment: Attachment) -> dict[str, str]:
    pairs = {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": attachment.pod_namespace,
        "K8S_POD_NAME": attachment.pod_name,
        "K8S_POD_INFRA_CONTAINER_ID": attachment.sandbox_id,
        "K8S_POD_UID": attachment.pod_uid,
    }
    # A namespace that is gone is said by an empty path: DEL then frees addresses and rules alone.
    gone = verb == "DEL" and not is_namespace(attachment.netns_path)
    return {
        "CNI_CONTAINERID": attachment.sandbox_id,
        "CNI_NETNS": "" if gone else attachment.netns_path,
        "CNI_IFNAME": attachment.interface,
        "CNI_ARGS": ";".join(f"{key}={value.replace(';', '')}" for key, value in pairs.items()),
    }


def _unserved(conf: cniconf.NetworkConf, attachment: Attachment) -> list[str]:
    """Capabilities that a sandbox needs and no plugin of the network declares."""
    needed = {"portMappings": attachment.port_mappings, "bandwidth": attachment.bandwidth}
    declared = [
        plugin["capabilities"] for plugin in conf.plugins if isinstance(plugin.get("capabilities"), dict)
    ]
    return [
        name for name, value in needed.items() if value and not any(d.get(name) is True for d in declared)
    ]


def _runtime_config(declared: Any, attachment: Attachment) -> dict[str, Any]:
    """Values of the capabilities that a plugin declares."""
    offered: dict[str, Any] = {
        "portMappings": [mapping for mapping in attachment.port_mappings if mapping.get("hostPort", 0) > 0],
        "dns": attachment.dns,
        "bandwidth": attachment.bandwidth,
        "cgroupPath": attachment.cgroup_path,
        "io.kubernetes.cri.pod-annotations": attachment.annotations,
    }
    if not isinstance(declared, dict):
        return {}
    return {key: value for key, value in offered.items() if value and declared.get(key) is True}
