"""The schema of events: wire form, subjects, unknown types."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from common.digest import Digest
from common.errors import InvalidArgumentError
from common.events import subjects, told
from common.events.schema import ContainerExited, Envelope, all_events, encoder, envelope_decoder


def envelope(raw: bytes) -> Envelope:
    made = Envelope(id="x:1", at_ns=1, node="n", source="runtimed", revision=1, event=msgspec.Raw(raw))
    return envelope_decoder.decode(encoder.encode(made))


def test_an_event_survives_the_wire() -> None:
    event = ContainerExited(id="c", sandbox_id="s", exit_code=137, reason="OOMKilled", signal=9)
    assert envelope(encoder.encode(event)).decoded() == event


def test_an_unknown_type_is_none_and_still_readable_as_fields() -> None:
    raw = msgspec.msgpack.encode({"type": "container.levitated.v9", "id": "c"})
    assert envelope(raw).decoded() is None
    assert envelope(raw).fields()["type"] == "container.levitated.v9"


def test_an_old_reader_ignores_new_fields() -> None:
    event = ContainerExited(id="c", sandbox_id="s", exit_code=0, reason="Completed")
    table = msgspec.msgpack.decode(encoder.encode(event)) | {"colour": "blue"}
    assert envelope(msgspec.msgpack.encode(table)).decoded() == event


def test_an_event_is_told_to_people_without_what_says_nothing() -> None:
    fields = {
        "type": "sandbox.ready.v1", "id": "sha256:" + "a" * 64, "pod": "b" * 64, "image": "app:1",
        "ips": ["10.0.0.2", "fd00::2"], "error": "", "attempt": 0, "finished_at_ns": 7,
    }  # fmt: skip
    line = "sandbox.ready              aaaaaaaaaaaa pod=bbbbbbbbbbbb image=app:1 ips=10.0.0.2 fd00::2"
    assert told.line(fields) == line
    assert told.line({"type": "sandbox.removed.v1", "id": "short"}) == "sandbox.removed            short"


def test_every_tag_is_kind_verb_version() -> None:
    for cls in all_events():
        kind, verb, version = str(cls.__struct_config__.tag).split(".")
        assert kind in {"image", "snapshot", "sandbox", "container", "exec", "node"}
        assert verb
        assert version.startswith("v")


@given(st.text(min_size=1))
def test_any_id_is_one_token_of_a_subject(text: str) -> None:
    subject = subjects.subject("n1", "container", text, "exited")
    assert len(subject.split(".")) == 6
    assert not set(subject) & set(" *>\n\t")


@given(st.text())
def test_a_digest_is_parsed_whole_or_refused(text: str) -> None:
    try:
        assert str(Digest.parse(text)) == text
    except InvalidArgumentError as exc:
        assert repr(text) in str(exc)
