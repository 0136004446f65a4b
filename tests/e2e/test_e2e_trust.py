"""A node with a signature policy, as a kubelet meets it."""

import json
from pathlib import Path

import grpc
import pytest

from devtools.cri import connect
from devtools.registry import Registry
from tests.support import refusals
from tests.support.node import running_node

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120), pytest.mark.anyio]


async def test_a_kubelet_reads_that_the_policy_refused_the_image(
    shop: Registry, busybox: str, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.json"
    accept = {"docker": {f"{shop.address}/demo": [{"type": "insecureAcceptAnything"}]}}
    policy.write_text(json.dumps({"default": [{"type": "reject"}], "transports": accept}))
    other = shop.push("elsewhere/app", [], {})
    settings = {"SLIPWAY_IMAGED_SIGNATURE_POLICY": str(policy)}
    with running_node(tmp_path, settings=settings) as node:
        async with connect(node.socket, node.logs) as client:
            assert await client.pull(busybox)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.pull(other)
        told = node.slipway("pull", other)
        saved = str(tmp_path / "saved.tar")
        assert node.slipway("save", "-o", saved, busybox).returncode == 0
        assert node.slipway("load", "-i", saved).returncode == 0
        loaded = node.slipway("load", "-i", saved, "--name", "elsewhere/app:1")
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert refusals.told(caught).startswith(f"SignatureValidationFailed: image {other}: the policy rejects")
    assert (told.returncode, "SignatureValidationFailed" in told.stderr) == (1, True)
    assert (loaded.returncode, "rejects default" in loaded.stderr) == (1, True)
