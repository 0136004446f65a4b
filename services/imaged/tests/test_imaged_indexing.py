"""What an index says of the images that it is made of, and which of them do not go together."""

import json

import pytest

from common.errors import InvalidArgumentError
from imaged.indexing import Entry, entries_of, index_of
from imaged.tree import Tree

AMD64 = {"os": "linux", "architecture": "amd64"}
WINDOWS = {"os": "windows", "architecture": "amd64"}
SERVER_2019 = WINDOWS | {"os.version": "10.0.17763.1"}
SERVER_2022 = WINDOWS | {"os.version": "10.0.20348.1"}


def entry(number: int, platform: object) -> Entry:
    return {"digest": f"sha256:{number:064x}", "size": 1, "platform": platform}


def made(*sources: list[Entry]) -> list[Entry]:
    manifests: list[Entry] = json.loads(index_of("app", sources)[1])["manifests"]
    return manifests


def test_an_image_of_several_windows_goes_into_an_index() -> None:
    source = [entry(1, AMD64), entry(2, SERVER_2019), entry(3, SERVER_2022)]
    assert made(source) == source
    assert made([entry(1, AMD64)], [entry(2, SERVER_2019)], [entry(3, SERVER_2022)], source) == source


@pytest.mark.parametrize(
    "source",
    [
        [entry(1, AMD64), entry(2, AMD64)],
        [entry(1, AMD64), entry(1, AMD64 | {"variant": "v2"})],
        [entry(1, None), entry(2, {}), {"digest": f"sha256:{3:064x}", "size": 1}],
    ],
)
def test_what_one_index_says_is_as_it_is(source: list[Entry]) -> None:
    assert made(source) == source


@pytest.mark.parametrize(
    ("platform", "told"),
    [
        (AMD64, "linux/amd64"),
        (SERVER_2019 | {"os.features": ["win32k"]}, "windows/amd64 10.0.17763.1"),
        ({}, "no platform"),
        (None, "no platform"),
    ],
)
def test_two_images_for_one_platform_are_refused(platform: object, told: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"two of its images are for {told}$"):
        made([entry(1, platform)], [entry(2, platform)])


def test_what_is_said_of_builds_goes_together() -> None:
    unknown = {"os": "unknown", "architecture": "unknown"}
    assert len(made([entry(1, AMD64), entry(2, unknown)], [entry(3, SERVER_2019), entry(4, unknown)])) == 4


def test_an_image_without_an_index_is_for_what_its_config_says() -> None:
    body = json.dumps({"schemaVersion": 2, "config": {"digest": "", "size": 0}, "layers": []}).encode()
    tree = Tree({"sha256:1": body}, {})
    features = ["win32k"]
    config = SERVER_2022 | {"variant": "", "os.features": features, "rootfs": {"type": "layers"}}
    [found] = entries_of("app", tree, json.dumps(config).encode())
    assert found["platform"] == SERVER_2022 | {"os.features": features}
