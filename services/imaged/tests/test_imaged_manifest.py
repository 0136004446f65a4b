import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidArgumentError, NotFoundError
from imaged import manifest
from imaged.manifest import Descriptor, Index, Manifest, Platform
from services.imaged.tests.corpus import MANIFESTS, OCI, D, doc, layer

AMD64 = Platform("linux", "amd64")


def test_the_largest_size_is_read() -> None:
    read = manifest.parse("i", doc(layers=layer(OCI + "layer.v1.tar+gzip", 1 << 46)), "")
    assert isinstance(read, Manifest)
    assert read.layers[0].size == 1 << 46


def test_manifest_is_read() -> None:
    read = manifest.parse("i", doc(), "")
    assert isinstance(read, Manifest)
    assert read.layers[0].size == 3


@pytest.mark.parametrize("name", MANIFESTS)
def test_unfit_manifest_is_refused_with_the_reason(name: str) -> None:
    body, word = MANIFESTS[name]
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


@pytest.mark.parametrize(
    ("want", "have"),
    [
        ("linux/amd64", Platform("linux", "x86_64")),
        ("linux/amd64", Platform("linux", "amd64", "v1")),
        ("linux/arm64", Platform("Linux", "aarch64")),
        ("linux/arm64", Platform("linux", "arm64", "8")),
        ("linux/arm64", Platform("linux", "ARM64", "V8")),
        ("linux/386", Platform("linux", "i386")),
        ("linux/arm/v7", Platform("linux", "armhf")),
    ],
)
def test_a_platform_in_another_builder_s_words_is_known(want: str, have: Platform) -> None:
    wanted = manifest.platform_of(want)
    assert pick(wanted, Platform("linux", "s390x"), have) == 1
    assert manifest.suits(json.dumps({"os": have.os, "architecture": have.architecture}).encode(), wanted)


def test_missing_platform_names_those_there() -> None:
    with pytest.raises(NotFoundError, match="linux/s390x"):
        pick(AMD64, Platform("linux", "s390x"))


def test_an_empty_list_of_go_is_one() -> None:
    whole = json.loads(doc())
    body = json.dumps(whole | {"layers": None}).encode()
    read = manifest.parse("i", body, "")
    assert isinstance(read, Manifest)
    assert read.layers == ()
    assert [blob.digest for blob in manifest.links("i", body)[1]] == [read.config.digest]
    assert manifest.diff_ids("i", read, b'{"rootfs": {"type": "layers", "diff_ids": null}}', AMD64) == []
    for without in (doc(layers=None), json.dumps({"schemaVersion": 2, "layers": None}).encode()):
        with pytest.raises(InvalidArgumentError, match="no config or no layers"):
            manifest.parse("i", without, "")


@pytest.mark.parametrize("kind", ["application/octet-stream", "application/json", "text/html", ""])
def test_the_config_of_an_old_docker_image_is_one_by_its_layers(kind: str) -> None:
    docker = "application/vnd.docker."
    config = {"mediaType": kind, "digest": D, "size": 2}
    old = doc(
        mediaType=docker + "distribution.manifest.v2+json",
        config=config,
        layers=layer(docker + "image.rootfs.diff.tar.gzip"),
    )
    read = manifest.parse("i", old, "")
    assert isinstance(read, Manifest)
    assert not read.artifact_type
    for other in (doc(config=config), old.replace(b"image.rootfs.diff.tar.gzip", b"plugin.v1+json")):
        artifact = manifest.parse("i", other, "")
        assert isinstance(artifact, Manifest)
        assert artifact.artifact_type == (kind or "unknown")


def test_config_must_have_a_diff_id_for_each_layer() -> None:
    read = manifest.parse("i", doc(), "")
    assert isinstance(read, Manifest)
    assert manifest.diff_ids("i", read, json.dumps({"rootfs": {"diff_ids": [D]}}).encode(), AMD64) == [D]
    configs: list[dict[str, dict[str, list[str]]]]
    configs = [{}, {"rootfs": {"diff_ids": []}}, {"rootfs": {"diff_ids": ["x"]}}]
    for config in configs:
        with pytest.raises(InvalidArgumentError):
            manifest.diff_ids("i", read, json.dumps(config).encode(), AMD64)
    with pytest.raises(NotFoundError, match="riscv64"):
        foreign = {"os": "linux", "architecture": "riscv64", "rootfs": {"diff_ids": [D]}}
        manifest.diff_ids("i", read, json.dumps(foreign).encode(), AMD64)
