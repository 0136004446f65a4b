"""What a deep look tells of blobs: those that no image needs, those that are missing, and those that are another."""

import hashlib
from pathlib import Path

import pytest

from slipway.doctor.deep import compare
from slipway.doctor.deep.compare import Fields, Node
from slipway.doctor.deep.difference import Difference
from slipway.doctor.deep.history import Told
from slipway.doctor.deep.inventory import Inventory
from slipway.doctor.deep.recorded import Recorded


def digest(body: str) -> str:
    return f"sha256:{hashlib.sha256(body.encode()).hexdigest()}"


def differences(root: Path, image: Fields, blobs: dict[str, str]) -> list[Difference]:
    """What is told of a node with an image and blobs: what each should be, and what it is."""
    paths = {digest(body): root / "sha256" / digest(body).partition(":")[2] for body in blobs}
    for path, body in zip(paths.values(), blobs.values(), strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_text(body)
    has = Inventory(
        mounts=[],
        shims={},
        pauses={},
        bundles=[],
        sandboxes=[],
        copies={},
        empty=[],
        snapshots=[],
        layers=[],
        blobs=paths,
        partial=[],
        temporary=[],
        cni=[],
        addresses={},
        rules=[],
        cgroups={},
    )
    said = Recorded({"image": {digest("config"): image}, "layer": {}}, [], 0)
    return list(compare.images(Node("/run", has, said, Told())))


@pytest.fixture
def image() -> Fields:
    """With a manifest, a layer, and a blob of another platform."""
    layer, other = ({"digest": digest(name), "size_bytes": 1} for name in ("layer", "other"))
    return {
        "documents": [digest("manifest")],
        "layers": [layer],
        "diff_ids": [digest("tar")],
        "others": [other],
    }


def test_nothing_is_told_of_an_image_that_is_whole(tmp_path: Path, image: Fields) -> None:
    blobs = {body: body for body in ("config", "manifest", "layer", "other")}
    assert differences(tmp_path, image, blobs) == []


def test_a_blob_of_another_platform_that_is_another_or_missing_is_told(tmp_path: Path, image: Fields) -> None:
    blobs = {body: body for body in ("config", "manifest", "layer")}
    name = digest("other")
    missing = Difference("blob", name, f"image {digest('config')} needs it, and it is not here")
    assert differences(tmp_path, image, blobs) == [missing]
    damaged = Difference("blob", name, "its content is another")
    assert differences(tmp_path, image, blobs | {"other": "othet"}) == [damaged]


def test_a_blob_that_no_image_needs_is_told_as_passing(tmp_path: Path, image: Fields) -> None:
    blobs = {body: body for body in ("config", "manifest", "layer", "other", "stray")}
    assert differences(tmp_path, image, blobs) == [
        Difference("blob", digest("stray"), "no image needs it", passing=True)
    ]
