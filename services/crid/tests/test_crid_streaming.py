"""The parts of the streaming server that need no node: tokens, frames, statuses."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.api.cri.v1 import api_pb2 as cri
from common.errors import ResourceExhaustedError
from crid.streaming import spdy, status
from crid.streaming.spdydict import DICTIONARY
from crid.streaming.tokens import BOUND, LIFE_S, Tokens

HEADERS = st.dictionaries(
    st.from_regex(r"[a-z-]{1,20}", fullmatch=True),
    st.text("abc /;=.", max_size=50),
    max_size=spdy.MAX_HEADERS,
)
STREAM = st.integers(1, 2**31 - 1)


def test_a_token_is_taken_once() -> None:
    tokens = Tokens()
    wish = cri.ExecRequest(container_id="c")
    token = tokens.issue(wish)
    assert tokens.take(token) is wish
    assert tokens.take(token) is None
    assert tokens.take("") is None


def test_a_token_is_gone_after_a_minute() -> None:
    now = [0.0]
    tokens = Tokens(lambda: now[0])
    token = tokens.issue(cri.ExecRequest())
    now[0] = LIFE_S
    assert tokens.take(token) is None


def test_outstanding_tokens_are_bounded_and_old_ones_make_room() -> None:
    now = [0.0]
    tokens = Tokens(lambda: now[0])
    assert len({tokens.issue(cri.ExecRequest()) for _ in range(BOUND)}) == BOUND
    with pytest.raises(ResourceExhaustedError, match="1000"):
        tokens.issue(cri.ExecRequest())
    now[0] = LIFE_S
    assert tokens.issue(cri.ExecRequest())


def test_the_dictionary_is_that_of_the_specification() -> None:
    import zlib

    assert len(DICTIONARY) == 1423
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2


@given(st.lists(st.tuples(STREAM, HEADERS, st.booleans()), max_size=5), st.data())
def test_streams_survive_any_cutting_of_the_bytes(
    streams: list[tuple[int, dict[str, str], bool]], data: st.DataObject
) -> None:
    writer, reader = spdy.Writer(), spdy.Reader()
    raw = b"".join(writer.syn_stream(number, headers, fin=fin) for number, headers, fin in streams)
    frames: list[spdy.Frame] = []
    while raw:
        at = data.draw(st.integers(1, len(raw)))
        frames += reader.feed(raw[:at])
        raw = raw[at:]
    assert frames == [spdy.SynStream(number, headers, fin) for number, headers, fin in streams]


@given(STREAM, st.binary(max_size=5000), st.booleans(), st.integers(1, 5000))
def test_data_comes_in_pieces_and_ends_once(number: int, payload: bytes, fin: bool, cut: int) -> None:
    raw, reader = spdy.data(number, payload, fin=fin), spdy.Reader()
    frames = [*reader.feed(raw[:cut]), *reader.feed(raw[cut:])]
    pieces = [frame for frame in frames if isinstance(frame, spdy.Data)]
    assert pieces == frames
    assert b"".join(piece.data for piece in pieces) == payload
    assert [piece.fin for piece in pieces if piece.fin] == [True] * fin
    assert not fin or pieces[-1].fin


@given(st.binary(max_size=300))
def test_any_bytes_are_frames_or_a_frame_error(raw: bytes) -> None:
    reader = spdy.Reader()
    try:
        list(reader.feed(raw))
    except spdy.FrameError as exc:
        assert str(exc)


@given(st.integers(0, 20), st.binary(max_size=60))
def test_any_control_frame_is_read_or_refused(kind: int, body: bytes) -> None:
    raw = (1 << 31 | 3 << 16 | kind).to_bytes(4, "big") + len(body).to_bytes(4, "big") + body
    try:
        assert len(list(spdy.Reader().feed(raw))) == 1
    except spdy.FrameError as exc:
        assert "control frame" in str(exc) or "headers" in str(exc)


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"a": "x" * spdy.MAX_HEADER_BYTES}, "headers of more than 4096 bytes"),
        ({"a": "x" * (1 << 20)}, "headers of more than 4096 bytes"),
        ({str(number): "" for number in range(33)}, "33 headers, more than 32"),
    ],
)
def test_a_bomb_of_headers_is_refused(headers: dict[str, str], told: str) -> None:
    raw = spdy.Writer().syn_stream(1, headers)
    with pytest.raises(spdy.FrameError, match=told):
        list(spdy.Reader().feed(raw))


def test_small_frames_come_back() -> None:
    reader = spdy.Reader()
    raw = spdy.rst_stream(3, 5) + spdy.ping(7) + spdy.goaway(9) + spdy.window_update(1, 4096)
    raw += spdy.initial_window(1 << 20)
    assert list(reader.feed(raw)) == [
        spdy.RstStream(3, 5),
        spdy.Ping(7),
        spdy.GoAway(9),
        spdy.WindowUpdate(1, 4096),
        spdy.InitialWindow(1 << 20),
    ]


def test_an_exit_code_is_a_status_with_a_cause() -> None:
    shown = json.loads(status.of_exit(7, 4))
    assert (shown["status"], shown["reason"]) == ("Failure", "NonZeroExitCode")
    assert shown["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]
    assert json.loads(status.of_exit(0, 5))["status"] == "Success"
    assert status.of_exit(0, 1) == b""
    assert b"7" in status.of_exit(7, 3)
