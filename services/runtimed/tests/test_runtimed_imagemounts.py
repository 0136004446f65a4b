"""Images as volumes: names of their snapshots, and sub paths that stay inside; and where the volumes of an image lie."""

from pathlib import Path

import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.errors import InvalidArgumentError, UnknownError
from runtimed.use.bundles import imagemounts, volumes

ID = "ab" * 32


def mount(image: str = "data", sub_path: str = "") -> cri.Mount:
    return cri.Mount(container_path="/v", image=cri.ImageSpec(image=image), image_sub_path=sub_path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An image's root, beside something that is not the image's."""
    (tmp_path / "secret").write_text("of the node")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").touch()
    (root / "up").symlink_to("../secret")
    (root / "absolute").symlink_to("/etc/passwd")
    (root / "chain").symlink_to("up")
    return root


def test_each_image_has_one_snapshot_that_names_its_container() -> None:
    config = cri.ContainerConfig(
        mounts=[
            cri.Mount(host_path="/x"),
            mount("a"),
            mount("b"),
            mount("a", "etc"),
            cri.Mount(host_path="/y"),
        ]
    )
    found = imagemounts.keys(ID, config)
    assert found == {"a": f"{ID}-0", "b": f"{ID}-1"}
    assert {imagemounts.owner(key) for key in [ID, *found.values()]} == {ID}


@pytest.mark.parametrize(
    ("sub_path", "place"),
    [("", ""), ("etc", "etc"), ("etc/passwd", "etc/passwd"), ("absolute", "etc/passwd"), ("etc/./", "etc")],
)
def test_a_sub_path_is_found_without_links(root: Path, sub_path: str, place: str) -> None:
    assert imagemounts.locate(mount(sub_path=sub_path), str(root)) == str(root / place).rstrip("/")


@pytest.mark.parametrize("sub_path", ["up", "chain", "missing", "etc/passwd/x", "../secret"])
def test_what_is_not_in_the_image_is_refused_with_the_kubelets_prefix(root: Path, sub_path: str) -> None:
    with pytest.raises(UnknownError, match=r"^ImageVolumeMountFailed: mounts\.image_sub_path: ") as caught:
        imagemounts.locate(mount(sub_path=sub_path), str(root))
    assert repr(sub_path) in caught.value.message


def test_a_volume_lies_where_the_links_of_the_image_lead(root: Path) -> None:
    (root / "here").symlink_to("a/../../there")
    (root / "there").symlink_to("/../deep/./er")
    (root / "loop").symlink_to("/loop")
    assert volumes.leads_to("/here//x", str(root)) == "/deep/er/x"
    assert volumes.leads_to("/none/../x", str(root)) == "/x"
    with pytest.raises(InvalidArgumentError, match="40 links"):
        volumes.leads_to("/loop", str(root))
