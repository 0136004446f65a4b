"""CDI: which specification counts, what its edits do to an OCI configuration, what is refused and how."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.errors import InvalidArgumentError, NotFoundError, UnimplementedError
from common.sys.hostroot import HostRoot
from runtimed.oci import cdi


def spec(*devices: dict[str, Any], edits: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    base = {
        "cdiVersion": "0.6.0",
        "kind": "vendor.com/gpu",
        "devices": devices,
        "containerEdits": edits or {},
    }
    return base | fields


def device(name: str = "one", **edits: Any) -> dict[str, Any]:
    return {"name": name, "containerEdits": edits}


def config(uid: int = 0) -> dict[str, Any]:
    return {
        "process": {"env": ["PATH=/bin", "A=old"], "user": {"uid": uid, "gid": uid, "additionalGids": [5]}},
        "mounts": [{"destination": "/dev"}, {"destination": "/dev/shm"}],
        "linux": {"devices": [], "resources": {"devices": [{"allow": False, "access": "rwm"}]}},
    }


def applied(
    tmp_path: Path, found: dict[str, Any], *names: str, onto: dict[str, Any] | None = None
) -> dict[str, Any]:
    (tmp_path / "spec.json").write_text(json.dumps(found))
    made = onto or config()
    cdi.apply(made, names or ("vendor.com/gpu=one",), [str(tmp_path)], HostRoot())
    return made


def test_names_come_from_the_field_and_the_annotations_once() -> None:
    wanted = cri.ContainerConfig(
        CDI_devices=[cri.CDIDevice(name="v.com/c=b"), cri.CDIDevice(name="v.com/c=a")],
        annotations={"cdi.k8s.io/z": "v.com/c=c, v.com/c=a", "other": "v.com/c=d"},
    )
    assert cdi.requested(wanted) == ["v.com/c=b", "v.com/c=a", "v.com/c=c"]


@pytest.mark.parametrize(
    "name", ["", "gpu", "v.com/c", "v.com/c=", "c=a", "1v/c=a", "v/c=a/b", "v/../c=a", "v/c=a-"]
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="CDI_devices: "):
        cdi.requested(cri.ContainerConfig(CDI_devices=[cri.CDIDevice(name=name)]))


def test_all_edits_reach_the_configuration(tmp_path: Path) -> None:
    found = spec(
        device(
            env=["A=new", "B=2"],
            deviceNodes=[{"path": "/dev/mine", "hostPath": "/dev/null", "permissions": "rw", "uid": 7}],
            mounts=[
                {"hostPath": "/lib/x", "containerPath": "/dev/shm", "options": ["ro", "nosuid", "bind"]},
                {"hostPath": "tmpfs", "containerPath": "/scratch", "type": "tmpfs"},
            ],
            hooks=[{"hookName": "createRuntime", "path": "/bin/hook", "args": ["hook", "x"], "timeout": 3}],
            additionalGids=[0, 5, 44],
            intelRdt={"closID": "fast"},
        ),
        edits={"env": ["ALL=1"]},
        cdiVersion="1.0.0",
    )
    made = applied(tmp_path, found)
    assert made["process"]["env"] == ["PATH=/bin", "ALL=1", "A=new", "B=2"]
    assert made["process"]["user"]["additionalGids"] == [5, 44]
    assert made["linux"]["devices"] == [{"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "uid": 7}]
    rule = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}
    assert made["linux"]["resources"]["devices"][-1] == rule
    assert made["mounts"] == [
        {"destination": "/dev"},
        {"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": []},
        {
            "destination": "/dev/shm",
            "type": "bind",
            "source": "/lib/x",
            "options": ["ro", "nosuid", "bind"],
        },
    ]
    hook = {"path": "/bin/hook", "args": ["hook", "x"], "env": [], "timeout": 3}
    assert made["hooks"] == {"createRuntime": [hook]}
    assert made["linux"]["intelRdt"] == {"closID": "fast"}


def test_edits_of_a_file_are_made_once_and_before_those_of_its_devices(tmp_path: Path) -> None:
    found = spec(
        device("one", env=["X=1"]), device("two", env=["X=2"]), edits={"additionalGids": [9], "env": ["X=0"]}
    )
    made = applied(tmp_path, found, "vendor.com/gpu=one", "vendor.com/gpu=two")
    assert made["process"]["env"][-1] == "X=2"
    made = applied(tmp_path, found, "vendor.com/gpu=two", "vendor.com/gpu=one")
    assert made["process"]["env"][-1] == "X=1"


def test_a_node_is_the_users_and_may_be_without_access(tmp_path: Path) -> None:
    node = {"path": "/dev/x", "type": "c", "major": 500, "minor": 2, "permissions": "none", "fileMode": 0o600}
    made = applied(tmp_path, spec(device(deviceNodes=[node])), onto=config(uid=1000))
    assert made["linux"]["devices"] == [
        {"path": "/dev/x", "type": "c", "major": 500, "minor": 2, "fileMode": 0o600, "uid": 1000, "gid": 1000}
    ]
    assert len(made["linux"]["resources"]["devices"]) == 1


def test_yaml_is_read_too(tmp_path: Path) -> None:
    text = """
cdiVersion: "0.5.0"
kind: vendor.com/net
devices:
  - name: eth-0
    containerEdits:
      env: ["NIC=eth-0"]
"""
    (tmp_path / "net.yaml").write_text(text)
    (tmp_path / "ignored.txt").write_text("not a specification")
    made = config()
    cdi.apply(made, ["vendor.com/net=eth-0"], [str(tmp_path)], HostRoot())
    assert made["process"]["env"][-1] == "NIC=eth-0"


def test_a_later_directory_goes_before_an_earlier(tmp_path: Path) -> None:
    for name in ("static", "dynamic"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "s.json").write_text(json.dumps(spec(device(env=[f"FROM={name}"]))))
    made = config()
    cdi.apply(made, ["vendor.com/gpu=one"], [str(tmp_path / "static"), str(tmp_path / "dynamic")], HostRoot())
    assert made["process"]["env"][-1] == "FROM=dynamic"


def test_a_device_of_two_files_in_one_directory_is_none(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps(spec(device())))
    with pytest.raises(NotFoundError, match=r"'vendor.com/gpu=one' is in none of .*in another file of"):
        cdi.apply(config(), ["vendor.com/gpu=one"], [str(tmp_path)], HostRoot())


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (spec(device(), cdiVersion="9.0.0"), "cdiVersion '9.0.0' is not supported"),
        (spec(device(), kind="gpu"), "kind 'gpu' is not vendor/class"),
        (spec(device("a/b")), "name 'a/b' is no device name"),
        (spec(device(), surprise=1), "unknown field `surprise`"),
        (spec(device(env=["=x"])), "env '=x' is not name=value"),
        (spec(device(hooks=[{"hookName": "never", "path": "/x"}])), "hooks: 'never'"),
        (spec(device(hooks=[{"hookName": "poststop", "path": "x"}])), "hooks: 'poststop' 'x'"),
        (spec(device(mounts=[{"hostPath": "/x", "containerPath": "/../y"}])), "mounts.containerPath"),
        (spec(device(deviceNodes=[{"path": "/dev/../x"}])), "deviceNodes.path"),
        (
            spec(device(deviceNodes=[{"path": "/dev/x", "permissions": "rx"}])),
            "deviceNodes.permissions: 'rx'",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, found: dict[str, Any], words: str) -> None:
    with pytest.raises(NotFoundError, match=r"CDI_devices: 'vendor.com/gpu=one' is in none of ") as caught:
        applied(tmp_path, found)
    assert words in caught.value.message
    assert str(tmp_path / "spec.json") in caught.value.message


def test_a_device_that_is_not_on_the_host_is_refused(tmp_path: Path) -> None:
    for node, words in (
        ({"path": "/dev/absent-for-slipway"}, "No such file"),
        ({"path": "/etc/passwd"}, "/etc/passwd is no device"),
        ({"path": "/dev/null", "type": "b"}, "is no device of type 'b'"),
    ):
        with pytest.raises(InvalidArgumentError, match=words):
            applied(tmp_path, spec(device(deviceNodes=[node])))


def test_network_devices_are_refused_by_name(tmp_path: Path) -> None:
    found = spec(device(netDevices=[{"hostInterfaceName": "eth1", "name": "net1"}]), cdiVersion="1.1.0")
    with pytest.raises(UnimplementedError, match="netDevices are not offered"):
        applied(tmp_path, found)
