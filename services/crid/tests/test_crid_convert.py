"""Images, their users, and lists in pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.api.cri.v1 import api_pb2 as cri
from common.api.images.v1 import images_pb2
from common.api.runtime.v1 import runtime_pb2
from crid.convert.image import auth_of, image_of, spec_of
from crid.servicer import runtime
from crid.servicer.lists import MESSAGE_BYTES, UNARY, pieces


def image_with(user: str) -> cri.Image:
    return image_of(images_pb2.Image(id="sha256:1", user=user))


@pytest.mark.parametrize(("user", "uid"), [("0", 0), ("1000", 1000), ("1000:1000", 1000), ("07", 7)])
def test_a_numeric_user_is_a_uid(user: str, uid: int) -> None:
    image = image_with(user)
    assert (image.HasField("uid"), image.uid.value, image.username) == (True, uid, "")


@pytest.mark.parametrize("user", ["nobody", "99999999999", "4294967296", "-1", "0x0", "٣", "1e3", " 0", "+0"])
def test_any_other_user_is_a_name_and_never_root(user: str) -> None:
    image = image_with(user)
    assert (image.HasField("uid"), image.username) == (False, user)


@pytest.mark.parametrize("user", ["", ":", ":0"])
def test_no_user_is_no_user(user: str) -> None:
    image = image_with(user)
    assert (image.HasField("uid"), image.username) == (False, "")


def test_every_field_of_the_credentials_goes_on() -> None:
    sent = cri.AuthConfig(**{f.name: f.name for f in cri.AuthConfig.DESCRIPTOR.fields})
    got = auth_of(sent)
    assert {f.name: getattr(got, f.name) for f in got.DESCRIPTOR.fields} == {
        f.name: f.name for f in cri.AuthConfig.DESCRIPTOR.fields
    }


@given(st.lists(st.integers(0, MESSAGE_BYTES // 2), max_size=20))
def test_a_list_in_pieces_has_each_item_once_and_in_order(sizes: list[int]) -> None:
    items = [cri.Container(id=str(n), image_ref="x" * size) for n, size in enumerate(sizes)]
    made = pieces(cri.StreamContainersResponse(containers=items))
    assert [c.id for message in made for c in message.containers] == [c.id for c in items]
    assert all(message.containers for message in made)
    assert all(message.ByteSize() < 2 * MESSAGE_BYTES for message in made)


@pytest.mark.parametrize("name", list(UNARY))
def test_a_stream_and_its_list_have_one_wire_form(name: str) -> None:
    methods = cri.DESCRIPTOR.services_by_name["RuntimeService"].methods_by_name
    stream, unary = methods[name], methods[UNARY[name][0]]
    for mine, other in (
        (stream.input_type, unary.input_type),
        (stream.output_type, unary.output_type),
    ):
        assert [(f.number, f.message_type, f.is_repeated) for f in mine.fields] == [
            (f.number, f.message_type, f.is_repeated) for f in other.fields
        ]


def test_forwarded_calls_have_the_same_messages_on_both_sides() -> None:
    front = cri.DESCRIPTOR.services_by_name["RuntimeService"].methods_by_name
    back = runtime_pb2.DESCRIPTOR.services_by_name["Runtime"].methods_by_name
    for name in (*runtime.FORWARDED, "GetContainerEvents"):
        assert front[name].input_type == back[name].input_type
        assert front[name].output_type == back[name].output_type


def test_every_rpc_of_cri_is_answered() -> None:
    front = set(cri.DESCRIPTOR.services_by_name["RuntimeService"].methods_by_name)
    answered = {*runtime.FORWARDED, *UNARY, "Exec", "Attach", "PortForward"}
    assert front == answered | {"GetContainerEvents", "Version", "CreateContainer", "RestorePod"}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (b'{"a": [1]}', '{"a": [1]}'),
        (b"[1]", "{}"),
        (b"{", "{}"),
        (b"", "{}"),
        (b"\xff", "{}"),
        (b'{"a":' + b"[" * 9999 + b"]" * 9999 + b"}", "{}"),
    ],
)
def test_a_config_is_told_as_it_is_when_it_is_one(config: bytes, told: str) -> None:
    assert spec_of(config) == told
