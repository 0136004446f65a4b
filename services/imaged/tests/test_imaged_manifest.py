import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidArgumentError, NotFoundError
from imaged import manifest
from imaged.manifest import Descriptor, Index, Manifest, Platform

OCI = "application/vnd.oci.image."
D = "sha256:" + "ab" * 32
AMD64 = Platform("linux", "amd64")


def doc(**change: object) -> bytes:
    made = {
        "schemaVersion": 2,
        "mediaType": OCI + "manifest.v1+json",
        "config": {"mediaType": OCI + "config.v1+json", "digest": D, "size": 2},
        "layers": [{"mediaType": OCI + "layer.v1.tar+gzip", "digest": D, "size": 3}],
    } | change
    return json.dumps({k: v for k, v in made.items() if v is not None}).encode()


def layer(kind: str) -> list[dict[str, object]]:
    return [{"mediaType": kind, "digest": D, "size": 3}]


@pytest.mark.parametrize("size", [-1, (1 << 46) + 1, 1 << 64, 10**30])
def test_a_size_that_nothing_can_count_is_refused(size: int) -> None:
    """Such sizes ended imaged, whose events cannot count so far."""
    kind = OCI + "layer.v1.tar+gzip"
    with pytest.raises(InvalidArgumentError, match=f"has the size {size}"):
        manifest.parse("i", doc(layers=[{"mediaType": kind, "digest": D, "size": size}]), "")
    assert manifest.parse("i", doc(layers=[{"mediaType": kind, "digest": D, "size": 1 << 46}]), "")


def test_manifest_is_read() -> None:
    read = manifest.parse("i", doc(), "")
    assert isinstance(read, Manifest)
    assert read.layers[0].size == 3


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"{", "malformed"),
        (b"[]", "malformed"),
        (doc(schemaVersion=1, fsLayers=[]), "schema 1"),
        (doc(mediaType="application/vnd.docker.distribution.manifest.v1+prettyjws"), "schema 1"),
        (doc(manifests=[]), "both manifests and layers"),
        (doc(layers=layer(OCI + "layer.v1.tar+gzip+encrypted")), "encrypted"),
        (doc(layers=layer("application/vnd.example.blob")), "unknown media type"),
        (doc(config={"mediaType": OCI + "config.v1+json", "digest": D, "size": 9 << 20}), "larger"),
        (doc(config={"mediaType": OCI + "config.v1+json", "digest": "sha256:1", "size": 2}), "sha256:1"),
        (doc(layers=[{"mediaType": OCI + "layer.v1.tar", "digest": D, "size": -1}]), "size -1"),
        (doc(mediaType="text/html"), "text/html"),
        (doc(config=None), "no config"),
        (doc(config=None, layers=None, mediaType=OCI + "index.v1+json"), "no manifests"),
        (doc(config=None, layers=None, manifests=[]), "is an index"),
    ],
)
def test_unfit_manifest_is_refused_with_the_reason(body: bytes, word: str) -> None:
    with pytest.raises(InvalidArgumentError, match="image some/image: ") as caught:
        manifest.parse("some/image", body, "")
    assert word in caught.value.message


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), lambda s: st.dictionaries(
    st.sampled_from(["schemaVersion", "mediaType", "manifests", "layers", "config", "digest", "size"]), s) | st.lists(s),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_document_is_read_or_refused(body: bytes) -> None:
    try:
        manifest.parse("i", body, "")
    except InvalidArgumentError:
        return


def pick(want: Platform, *have: Platform | None) -> int:
    entries = tuple(Descriptor(D, n, OCI + "manifest.v1+json", p) for n, p in enumerate(have))
    return manifest.choose("i", Index(entries), want).size


def test_platform_is_chosen_by_variant() -> None:
    arm64 = Platform("linux", "arm64", "v8")
    assert pick(AMD64, Platform("windows", "amd64"), Platform("linux", "arm64"), AMD64) == 2
    assert pick(AMD64, Platform("linux", "amd64", "v3"), AMD64) == 1
    assert pick(arm64, Platform("linux", "arm64"), arm64) == 1
    assert (
        pick(Platform("linux", "arm", "v7"), Platform("linux", "arm", "v5"), Platform("linux", "arm", "v6"))
        == 1
    )
    assert pick(AMD64, None) == 0


def test_missing_platform_names_those_there() -> None:
    with pytest.raises(NotFoundError, match="linux/s390x"):
        pick(AMD64, Platform("linux", "s390x"))


def test_config_must_have_a_diff_id_for_each_layer() -> None:
    read = manifest.parse("i", doc(), "")
    assert isinstance(read, Manifest)
    assert manifest.diff_ids("i", read, json.dumps({"rootfs": {"diff_ids": [D]}}).encode(), AMD64) == [D]
    for config in ({}, {"rootfs": {"diff_ids": []}}, {"rootfs": {"diff_ids": ["x"]}}):
        with pytest.raises(InvalidArgumentError):
            manifest.diff_ids("i", read, json.dumps(config).encode(), AMD64)
    with pytest.raises(NotFoundError, match="riscv64"):
        foreign = {"os": "linux", "architecture": "riscv64", "rootfs": {"diff_ids": [D]}}
        manifest.diff_ids("i", read, json.dumps(foreign).encode(), AMD64)
