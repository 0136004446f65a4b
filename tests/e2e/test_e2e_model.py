"""CRI calls in random orders, and some at the same time, against a model of what a kubelet may rely on."""

import os
import random
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import anyio
import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from common.api.cri.v1 import api_pb2 as cri_pb
from common.api.cri.v1 import api_pb2_grpc as cri_grpc
from tests.support import refusals
from tests.support.node import TestNode
from tests.support.pace import patience

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(300)]
CALL_S = patience(60)
CREATED, RUNNING, EXITED = cri_pb.CONTAINER_CREATED, cri_pb.CONTAINER_RUNNING, cri_pb.CONTAINER_EXITED
TERM_CODE, KILL_CODE, EXEC_CODE = 7, 137, 3
SCRIPT = f"trap 'exit {TERM_CODE}' TERM; echo up > /up; while :; do sleep 0.02; done"
UP = f"while [ ! -e /up ]; do sleep 0.01; done; exit {EXEC_CODE}"
CODE = grpc.StatusCode
LATE = (CODE.FAILED_PRECONDITION, CODE.NOT_FOUND)
"""What a call may be refused with that comes with the end of what it needs."""
ENDS = ("StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox")


@dataclass
class Container:
    id: str
    config: cri_pb.ContainerConfig
    state: cri_pb.ContainerState.ValueType = CREATED
    codes: frozenset[int] = frozenset()
    """Those that it may have ended with."""
    settled: bool = False
    """Its signal handler is there: until then a stop may kill it."""


@dataclass
class Pod:
    id: str
    config: cri_pb.PodSandboxConfig
    ready: bool = True
    containers: list[Container] = field(default_factory=list)


class Kubelet(RuleBasedStateMachine):
    """Rules are calls; what they must answer is in the model."""

    socket = image = logs = ""
    made = 0
    pods = Bundle("pods")
    containers = Bundle("containers")

    def __init__(self) -> None:
        super().__init__()
        options = [("grpc.default_authority", "localhost")]
        self.channel = grpc.insecure_channel(f"unix:{self.socket}", options=options)
        self.runtime: Any = cri_grpc.RuntimeServiceStub(self.channel)
        self.threads = ThreadPoolExecutor(4)
        self.known: dict[str, Pod] = {}

    def call(self, name: str, request: Message) -> Any:
        return getattr(self.runtime, name)(request, timeout=CALL_S)

    def at_once(self, name: str, *requests: Message) -> list[Any]:
        futures: list[Future[Any]] = [self.threads.submit(self.call, name, one) for one in requests]
        return [future.result() for future in futures]

    def beside(self, name: str, request: Message, end: str, one: tuple[Pod, Container | None]) -> Any:
        """A call, and at the same time one that ends its container or pod, which always goes well; none if it is refused."""
        pod, container = one
        ending: Message
        if end == "StopPodSandbox":
            ending = cri_pb.StopPodSandboxRequest(pod_sandbox_id=pod.id)
        elif end == "RemovePodSandbox":
            ending = cri_pb.RemovePodSandboxRequest(pod_sandbox_id=pod.id)
        else:
            assert container is not None, end
            ending = (
                cri_pb.StopContainerRequest(container_id=container.id)
                if end == "StopContainer"
                else cri_pb.RemoveContainerRequest(container_id=container.id)
            )
        call, ended = (
            self.threads.submit(self.call, name, request),
            self.threads.submit(self.call, end, ending),
        )
        ended.result()
        try:
            return call.result()
        except grpc.RpcError as exc:
            assert exc.code() in LATE, f"{name} beside {end}: {exc.code()}: {exc.details()}"
            return None

    def refused(self, code: grpc.StatusCode, name: str, request: Message) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            self.call(name, request)
        assert caught.value.code() is code, refusals.told(caught)

    @rule(target=pods, twice=st.booleans())
    def run_pod(self, twice: bool) -> Pod:
        return self._run_pod(1 + twice)

    def _run_pod(self, times: int = 1) -> Pod:
        Kubelet.made += 1
        name = f"model-{Kubelet.made}"
        config = cri_pb.PodSandboxConfig(
            metadata=cri_pb.PodSandboxMetadata(name=name, uid=name, namespace="model"),
            log_directory=f"{self.logs}/{name}",
        )
        options = config.linux.security_context.namespace_options
        options.network, options.pid = cri_pb.NODE, cri_pb.CONTAINER
        request = cri_pb.RunPodSandboxRequest(config=config)
        ids = {answer.pod_sandbox_id for answer in self.at_once("RunPodSandbox", *[request] * times)}
        assert len(ids) == 1
        pod = Pod(ids.pop(), config)
        self.known[pod.id] = pod
        return pod

    @rule(pod=pods)
    def run_pod_again(self, pod: Pod) -> None:
        request = cri_pb.RunPodSandboxRequest(config=pod.config)
        if pod.id in self.known and pod.ready:
            assert self.call("RunPodSandbox", request).pod_sandbox_id == pod.id
        elif pod.id in self.known:
            self.refused(CODE.ALREADY_EXISTS, "RunPodSandbox", request)

    @rule(target=containers, pod=pods, twice=st.booleans())
    def create(self, pod: Pod, twice: bool) -> tuple[Pod, Container] | None:
        config = self._config()
        request = self._create(pod, config)
        if pod.id not in self.known or not pod.ready:
            code = CODE.FAILED_PRECONDITION if pod.id in self.known else CODE.NOT_FOUND
            self.refused(code, "CreateContainer", request)
            return None
        ids = {answer.container_id for answer in self.at_once("CreateContainer", *[request] * (1 + twice))}
        assert len(ids) == 1
        pod.containers.append(Container(ids.pop(), config))
        return pod, pod.containers[-1]

    def _config(self) -> cri_pb.ContainerConfig:
        Kubelet.made += 1
        return cri_pb.ContainerConfig(
            metadata=cri_pb.ContainerMetadata(name=f"c{Kubelet.made}"),
            image=cri_pb.ImageSpec(image=self.image),
            command=["sh", "-c", SCRIPT],
            log_path=f"c{Kubelet.made}.log",
        )

    def _create(self, pod: Pod, config: cri_pb.ContainerConfig) -> cri_pb.CreateContainerRequest:
        return cri_pb.CreateContainerRequest(pod_sandbox_id=pod.id, config=config, sandbox_config=pod.config)

    def _is_known(self, one: tuple[Pod, Container] | None) -> TypeGuard[tuple[Pod, Container]]:
        return one is not None and one[0].id in self.known and one[1] in one[0].containers

    @rule(one=containers)
    def create_again(self, one: tuple[Pod, Container] | None) -> None:
        if not self._is_known(one) or not one[0].ready:
            return
        request = self._create(one[0], one[1].config)
        if one[1].state == CREATED:
            assert self.call("CreateContainer", request).container_id == one[1].id
        else:
            self.refused(CODE.ALREADY_EXISTS, "CreateContainer", request)

    @rule(one=containers, twice=st.booleans())
    def start(self, one: tuple[Pod, Container] | None, twice: bool) -> None:
        if one is None:
            return
        pod, container = one
        request = cri_pb.StartContainerRequest(container_id=container.id)
        if not self._is_known(one):
            self.refused(CODE.NOT_FOUND, "StartContainer", request)
        elif container.state != CREATED or not pod.ready:
            self.refused(CODE.FAILED_PRECONDITION, "StartContainer", request)
        elif twice:
            outcomes = [self.threads.submit(self.call, "StartContainer", request) for _ in range(2)]
            refused = [found for future in outcomes if (found := future.exception())]
            assert len(refused) < 2  # the second joins the first, or comes after it
            container.state = RUNNING
        else:
            self.call("StartContainer", request)
            container.state = RUNNING

    @rule(one=containers)
    def exec(self, one: tuple[Pod, Container] | None) -> None:
        if one is None:
            return
        request = cri_pb.ExecSyncRequest(container_id=one[1].id, cmd=["sh", "-c", UP], timeout=30)
        if not self._is_known(one):
            self.refused(CODE.NOT_FOUND, "ExecSync", request)
        elif one[1].state != RUNNING:
            self.refused(CODE.FAILED_PRECONDITION, "ExecSync", request)
        else:
            assert self.call("ExecSync", request).exit_code == EXEC_CODE
            one[1].settled = True

    @rule(one=containers, timeout=st.sampled_from([0, 20]), twice=st.booleans())
    def stop(self, one: tuple[Pod, Container] | None, timeout: int, twice: bool) -> None:
        if one is None:
            return
        request = cri_pb.StopContainerRequest(container_id=one[1].id, timeout=timeout)
        self.at_once("StopContainer", *[request] * (1 + twice))  # idempotent, also for what is gone
        if self._is_known(one):
            self._end(one[1], polite=timeout > 0)

    def _end(self, container: Container, *, polite: bool) -> None:
        if container.state == RUNNING:
            term = {TERM_CODE} if container.settled else {TERM_CODE, KILL_CODE, 143}
            container.state = EXITED
            container.codes = frozenset(term if polite else {KILL_CODE})

    @rule(one=consumes(containers), twice=st.booleans())
    def remove(self, one: tuple[Pod, Container] | None, twice: bool) -> None:
        if one is None:
            return
        request = cri_pb.RemoveContainerRequest(container_id=one[1].id)
        self.at_once("RemoveContainer", *[request] * (1 + twice))
        if self._is_known(one):
            one[0].containers.remove(one[1])

    @rule(pod=pods)
    def stop_pod(self, pod: Pod) -> None:
        self.call("StopPodSandbox", cri_pb.StopPodSandboxRequest(pod_sandbox_id=pod.id))
        self._end_pod(pod, "StopPodSandbox")

    @rule(pod=consumes(pods))
    def remove_pod(self, pod: Pod) -> None:
        self.call("RemovePodSandbox", cri_pb.RemovePodSandboxRequest(pod_sandbox_id=pod.id))
        self._end_pod(pod, "RemovePodSandbox")

    @rule(target=containers, pod=pods, end=st.sampled_from(ENDS[2:]))
    def create_while_its_pod_ends(self, pod: Pod, end: str) -> tuple[Pod, Container] | None:
        pod, config = self._ready(pod), self._config()
        answer = self.beside("CreateContainer", self._create(pod, config), end, (pod, None))
        self._end_pod(pod, end)
        if answer is None:
            return None
        made = Container(answer.container_id, config)
        if pod.id in self.known:
            pod.containers.append(made)
        else:
            self.refused(
                CODE.NOT_FOUND, "ContainerStatus", cri_pb.ContainerStatusRequest(container_id=made.id)
            )
        return pod, made

    @rule(target=containers, pod=pods, end=st.sampled_from(ENDS))
    def start_while_it_ends(self, pod: Pod, end: str) -> tuple[Pod, Container]:
        pod, made = one = self._made(self._ready(pod))
        answer = self.beside("StartContainer", cri_pb.StartContainerRequest(container_id=made.id), end, one)
        self._end_of(one, end)
        if self._is_known(one):
            status = self.call("ContainerStatus", cri_pb.ContainerStatusRequest(container_id=made.id)).status
            # a stop that came before the start found nothing to do
            late = {RUNNING} if end == "StopContainer" else set()
            assert status.state in ({EXITED} | late if answer else {CREATED, EXITED})
            made.state, made.codes = status.state, frozenset({status.exit_code})
        return one

    @rule(target=containers, pod=pods, end=st.sampled_from(ENDS))
    def exec_while_it_ends(self, pod: Pod, end: str) -> tuple[Pod, Container]:
        pod, made = one = self._made(self._ready(pod))
        self.call("StartContainer", cri_pb.StartContainerRequest(container_id=made.id))
        made.state = RUNNING
        request = cri_pb.ExecSyncRequest(container_id=made.id, cmd=["sh", "-c", UP], timeout=30)
        answer = self.beside("ExecSync", request, end, one)
        assert answer is None or answer.exit_code in (EXEC_CODE, KILL_CODE)
        self._end_of(one, end)
        return one

    def _ready(self, pod: Pod) -> Pod:
        """This pod, or another where it is not ready."""
        return pod if pod.id in self.known and pod.ready else self._run_pod()

    def _made(self, pod: Pod) -> tuple[Pod, Container]:
        config = self._config()
        made = Container(self.call("CreateContainer", self._create(pod, config)).container_id, config)
        pod.containers.append(made)
        return pod, made

    def _end_of(self, one: tuple[Pod, Container], end: str) -> None:
        if end in ("StopPodSandbox", "RemovePodSandbox"):
            self._end_pod(one[0], end)
        elif self._is_known(one) and end == "RemoveContainer":
            one[0].containers.remove(one[1])
        elif self._is_known(one):
            self._end(one[1], polite=False)

    def _end_pod(self, pod: Pod, end: str) -> None:
        pod.ready = False
        for container in pod.containers:
            self._end(container, polite=False)
        if end == "RemovePodSandbox":
            self.known.pop(pod.id, None)

    @precondition(lambda self: self.known)
    @rule()
    def statuses(self) -> None:
        for pod in self.known.values():
            for container in pod.containers:
                request = cri_pb.ContainerStatusRequest(container_id=container.id)
                status = self.call("ContainerStatus", request).status
                assert status.state == container.state
                if container.state == EXITED:
                    assert status.exit_code in container.codes
                    assert 0 < status.created_at <= status.started_at <= status.finished_at

    @invariant()
    def lists_are_those_of_the_model(self) -> None:
        pods = self.call("ListPodSandbox", cri_pb.ListPodSandboxRequest()).items
        shown = {
            pod.id: pod.state == cri_pb.SANDBOX_READY for pod in pods if pod.metadata.namespace == "model"
        }
        assert shown == {pod.id: pod.ready for pod in self.known.values()}
        containers = self.call("ListContainers", cri_pb.ListContainersRequest()).containers
        listed = {one.id: one.state for one in containers if one.pod_sandbox_id in self.known}
        assert listed == {one.id: one.state for pod in self.known.values() for one in pod.containers}

    def teardown(self) -> None:
        for pod in self.known.values():
            self.call("RemovePodSandbox", cri_pb.RemovePodSandboxRequest(pod_sandbox_id=pod.id))
        self.threads.shutdown()
        self.channel.close()


@pytest.fixture(params=["short", pytest.param("long", marks=[pytest.mark.long, pytest.mark.timeout(1200)])])
def machine(request: pytest.FixtureRequest) -> tuple[type[Kubelet], settings]:
    """The state machine, and how it is run; the long form tells its seed, and takes one by SLIPWAY_TEST_SEED."""
    common = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
    if request.param == "short":
        return Kubelet, settings(common, max_examples=4, stateful_step_count=12, derandomize=True)
    number = int(os.environ.get("SLIPWAY_TEST_SEED") or random.getrandbits(32))
    sys.stderr.write(f"SLIPWAY_TEST_SEED={number}\n")
    # what failed once may not fail again: nothing is made shorter
    form = settings(common, max_examples=40, stateful_step_count=60, phases=[Phase.generate])
    return seed(number)(type("LongKubelet", (Kubelet,), {})), form


def test_a_node_does_what_the_model_says(
    node: TestNode, busybox: str, machine: tuple[type[Kubelet], settings]
) -> None:
    kubelet, form = machine
    assert node.slipway("pull", busybox).returncode == 0
    Kubelet.socket, Kubelet.image, Kubelet.logs = node.socket, busybox, str(node.logs)
    run_machine(kubelet, settings=form)
    left = node.leftovers()
    assert not any(left.values()), left
    assert anyio.run(node.differences) == []
