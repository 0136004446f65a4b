"""What handlers are said to be able to do is what their runtimes say."""

from pathlib import Path

import pytest

from runtimed.oci.features import Features, HandlerFeatures
from runtimed.settings import Handler

pytestmark = pytest.mark.anyio


def script(path: Path, body: str) -> HandlerFeatures:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return HandlerFeatures({"own": Handler(binary=str(path))})


@pytest.mark.parametrize("name", ["crun", "runc"])
async def test_both_usual_runtimes_mount_recursively_read_only(name: str) -> None:
    found = HandlerFeatures({name: Handler(binary=name)})
    assert (await found.of(name)).recursive_read_only


@pytest.mark.parametrize(
    ("linux", "expected"),
    [
        ('{"namespaces": ["user"], "mountExtensions": {"idmap": {"enabled": true}}}', True),
        ('{"namespaces": ["user"], "mountExtensions": {"idmap": {"enabled": false}}}', False),
        ('{"namespaces": ["user"], "mountExtensions": {"idmap": {}}}', False),
        ('{"namespaces": ["pid"], "mountExtensions": {"idmap": {"enabled": true}}}', False),
        ('{"namespaces": ["user"]}', False),
        ('{"namespaces": null, "mountExtensions": null}', False),
    ],
)
async def test_user_namespaces_need_mounts_with_mapped_ids(
    tmp_path: Path, linux: str, expected: bool
) -> None:
    found = await script(tmp_path / "rt", f"echo '{{\"linux\": {linux}}}'").of("own")
    assert found.user_namespaces is expected


async def test_a_runtime_is_believed_and_asked_again_when_it_changes(tmp_path: Path) -> None:
    program = tmp_path / "rt"
    features = script(program, """echo '{"mountOptions": ["ro", "rro"], "linux": {}}'""")
    assert (await features.of("own")).recursive_read_only
    program.with_suffix(".new").write_text('#!/bin/sh\necho \'{"mountOptions": ["ro"]}\'\n')
    program.with_suffix(".new").chmod(0o755)
    program.with_suffix(".new").rename(program)
    assert await features.of("own") == Features(mount_options=["ro"])
    assert not (await features.of("own")).recursive_read_only


@pytest.mark.parametrize(
    "body", ["exit 1", "echo nonsense", "echo crun version 1.3", "echo '[]'", "echo '{\"mountOptions\": 5}'"]
)
async def test_what_a_runtime_does_not_say_it_cannot_do(tmp_path: Path, body: str) -> None:
    assert await script(tmp_path / "rt", body).of("own") == Features()


async def test_a_missing_runtime_can_do_nothing() -> None:
    assert await HandlerFeatures({"x": Handler(binary="/nonexistent/rt")}).of("x") == Features()
