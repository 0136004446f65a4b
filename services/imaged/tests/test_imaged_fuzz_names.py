"""Text of others, made up: references, challenges, hosts.toml, logins, ranges, messages of peers.

Each is read or refused by an error of ours; nothing else is raised, and what is read holds what its reader counts on.
"""

import json
import string

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg

from common.dockerconfig import Login, drop_login, find_login
from common.errors import FailedPreconditionError, InvalidArgumentError
from imaged import hosts
from imaged.adapters.registry_auth import parse_challenges
from imaged.peers.neighbours import Answer, Neighbours, Question
from imaged.peers.seal import Seals
from imaged.peers.server import _Refusal, _span
from imaged.reference import Reference

DIGESTS = st.one_of(
    st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:{}".format),
    st.sampled_from(
        ["", "sha256:", "sha256:" + "A" * 64, "sha256:" + "0" * 63, "md5:" + "0" * 32, "sha256:../../x"]
    ),
    st.text(),
)
NUMBERS = st.one_of(st.integers(-5, 1 << 40), st.integers(), st.floats(), st.none())
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(), DIGESTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=12,
)


@given(st.one_of(st.text(), st.text(string.ascii_lowercase + "0123456789.:/@-_[]", max_size=80)))
@example("a" * 300)
@example("[::1]:5000/app@sha256:" + "0" * 64)
def test_a_reference_is_refused_or_stays_what_it_is(text: str) -> None:
    try:
        found = Reference.parse(text)
    except InvalidArgumentError as exc:
        assert exc.message
        return
    assert Reference.parse(str(found)) == found
    assert "\n" not in str(found)
    assert not {".", ".."} & set(found.path.split("/"))
    assert bool(found.tag) != bool(found.digest)


WORDS = st.sampled_from(
    ["Bearer ", "Basic ", 'realm="', "realm=", ",", '"', "\\", "=", "service", "scope=", "a", " ", "\t", "☃"]
)


@given(st.lists(st.one_of(st.text(), st.lists(WORDS).map("".join)), max_size=5))
@example(['Bearer realm="https://a/token",service="b",scope="repository:c:pull"'])
def test_challenges_are_read_whatever_they_say(headers: list[str]) -> None:
    for found in parse_challenges(headers):
        assert found.scheme in ("basic", "bearer")
        assert all(isinstance(each, str) for each in (found.realm, found.service, found.scope))


def _toml(value: object) -> str:
    """A value as TOML has it inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


PLAIN = st.text(string.ascii_letters + string.digits + ":/.-_[] ", max_size=20)
SCALARS = st.one_of(st.booleans(), st.integers(-9, 99), PLAIN)
ENTRIES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
KEYS = ("capabilities", "ca", "client", "skip_verify", "override_path", "dial_timeout", "header")
HOST_TABLES = st.fixed_dictionaries(
    {}, optional={key: st.one_of(ENTRIES, st.dictionaries(PLAIN, ENTRIES, max_size=2)) for key in KEYS}
)


@given(
    st.one_of(
        st.text(),
        st.tuples(
            ENTRIES, st.one_of(ENTRIES, st.dictionaries(PLAIN, st.one_of(HOST_TABLES, ENTRIES), max_size=3))
        ).map(lambda pair: f"server = {_toml(pair[0])}\nhost = {_toml(pair[1])}\n"),
        HOST_TABLES.map(lambda table: "".join(f"{key} = {_toml(each)}\n" for key, each in table.items())),
    )
)
@example("header = {a = 1}")
@example('header = {a = ["b", "c\\r\\nd: e"]}')
@example("client = {}")
@example('[host."http://[x"]')
def test_any_hosts_toml_is_hosts_or_refused_by_its_name(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    root = tmp_path_factory.getbasetemp() / "fuzzed"
    (root / "reg.example").mkdir(parents=True, exist_ok=True)
    (root / "reg.example" / "hosts.toml").write_text(text, errors="replace")
    try:
        found = hosts.find(str(root), "reg.example")
    except FailedPreconditionError as exc:
        assert "hosts.toml" in exc.message
        return
    assert found
    for host in found:
        assert host.url.startswith(("http://", "https://"))
        assert host.name
        assert host.capabilities <= {"pull", "resolve", "push"}
        assert host.connect_timeout_s >= 0
        assert all(isinstance(part, str) for pair in (*host.client, *host.headers) for part in pair)
        assert all(isinstance(path, str) for path in host.ca)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "auths": st.one_of(
                VALUES,
                st.dictionaries(st.sampled_from(["reg.example", "https://reg.example/v1/", "x"]), VALUES),
            ),
            "credHelpers": st.one_of(st.none(), st.dictionaries(st.just("reg.example"), VALUES)),
            "credsStore": st.one_of(st.none(), st.just("../x"), st.just("no such")),
        },
    )
)
def test_any_docker_config_is_logins_or_refused(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, object]
) -> None:
    config = tmp_path_factory.getbasetemp() / "fuzzed-config.json"
    config.write_text(json.dumps(document))
    for work in (find_login, drop_login):
        try:
            found = work(config, "reg.example")
        except FailedPreconditionError as exc:
            assert exc.message
        else:
            assert found is None or isinstance(found, bool | Login)


@given(
    st.one_of(st.text(), st.from_regex(r"bytes=\d{0,20}-\d{0,20}", fullmatch=True)), st.integers(0, 1 << 40)
)
def test_a_range_is_within_the_blob_or_refused(text: str, size: int) -> None:
    try:
        start, end = _span(text, size)
    except _Refusal as exc:
        assert exc.status == 416
        return
    assert 0 <= start <= end <= size


@given(
    st.one_of(
        st.binary(),
        VALUES.map(lambda value: msgspec.msgpack.encode(json.loads(json.dumps(value), parse_int=float))),
    )
)
def test_a_message_without_a_seal_is_none(data: bytes) -> None:
    made = Neighbours("n", "nats://127.0.0.1:1", Seals("s" * 32), 1.0)
    made._silent_until = float("inf")
    told = Msg(Client(), subject="s", data=data)
    assert made._opened(told, Question) is None
    assert made._opened(told, Answer) is None
