"""No field of a CRI request is silently ignored: each is in this table, and what the table says holds in the code.

A field that is in none of REFUSED, WINDOWS and MOOT works: a service names it. A field that is new in the proto and
that no service names fails here.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor

from common.api.cri.v1 import api_pb2 as cri

ROOT = Path(__file__).parent.parent

REFUSED = {
    "PodSandboxConfig.windows": "only Linux sandboxes are offered",
    "ContainerConfig.windows": "only Linux containers are offered",
    "UpdateContainerResourcesRequest.windows": "only Linux containers are offered",
    "UpdateContainerResourcesRequest.annotations": "no option of an update is known",
}
"""What is refused, by a sentence of the code that refuses it."""

WINDOWS = re.compile(r"Windows\w+\.\w+")
"""Only reached by fields that are refused."""

PAUSE = "it is of the pause container, and a sandbox has none: its containers bring their own"
MOOT = {
    "VersionRequest.version": "there is one version of the API",
    "ImageSpec.annotations": "for image plugins, and there are none; kept with the container",
    "ImageSpec.runtime_handler": "an image is the same for every handler",
    "PullImageRequest.sandbox_config": "a pull needs nothing of its pod",
    "LinuxSandboxSecurityContext.run_as_user": PAUSE,
    "LinuxSandboxSecurityContext.run_as_group": PAUSE,
    "LinuxSandboxSecurityContext.supplemental_groups": PAUSE,
    "LinuxSandboxSecurityContext.supplemental_groups_policy": PAUSE,
    "LinuxSandboxSecurityContext.readonly_rootfs": PAUSE,
    "LinuxSandboxSecurityContext.selinux_options": PAUSE,
}
"""What changes nothing, with the reason."""


def requests() -> Iterator[Descriptor]:
    """Every message that a request holds."""
    seen: set[str] = set()
    todo = [m.input_type for s in cri.DESCRIPTOR.services_by_name.values() for m in s.methods]
    while todo:
        message = todo.pop()
        if message.full_name in seen:
            continue
        seen.add(message.full_name)
        todo += [field.message_type for field in message.fields if field.message_type]
        if not message.GetOptions().map_entry:
            yield message


FIELDS = sorted(
    f"{message.full_name.removeprefix('runtime.v1.')}.{field.name}"
    for message in requests()
    for field in message.fields
)
SOURCE = "\n".join(
    path.read_text()
    for service in ("crid", "runtimed", "imaged")
    for path in (ROOT / "services" / service / "src").rglob("*.py")
)


@pytest.mark.parametrize("field", FIELDS)
def test_a_request_field_works_or_is_refused_by_name(field: str) -> None:
    message, name = field.split(".", 1) if field.count(".") == 1 else field.rsplit(".", 1)
    refusal = REFUSED.get(field) or REFUSED.get(f"{message}.*")
    if refusal is not None:
        assert refusal in SOURCE
    elif not WINDOWS.fullmatch(field) and field not in MOOT:
        assert re.search(rf"\b{name}\b", SOURCE), (
            "no service reads it: make it work, refuse it, or say why not"
        )


def test_the_table_has_no_field_that_is_gone() -> None:
    known = {*FIELDS, *(f"{field.split('.')[0]}.*" for field in FIELDS)}
    assert not (REFUSED.keys() | MOOT.keys()) - known
