import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidArgumentError
from imaged.reference import Reference

HEX = "a1" * 32


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("user/app", "docker.io/user/app:latest"),
        ("index.docker.io/app", "docker.io/library/app:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("quay.io/a/b/c:v1", "quay.io/a/b/c:v1"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        (f"busybox@sha256:{HEX}", f"docker.io/library/busybox@sha256:{HEX}"),
        (f"busybox:1@sha256:{HEX}", f"docker.io/library/busybox@sha256:{HEX}"),
        ("Upper/app", "Upper/app:latest"),
    ],
)
def test_reference_is_normalised_as_docker_does(text: str, normal: str) -> None:
    assert str(Reference.parse(text)) == normal


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "@", "a:", "UPPER", "a//b", "a/../b", "-a", "a b", f"{HEX}", "a@sha256:12", "a@md5:" + "0" * 32,
        "a:b:c", "http://x/y", "host:port/app", "a:" + "t" * 129, "x/" + "a" * 300, "a\n", "é",
    ],
)  # fmt: skip
def test_malformed_reference_is_refused_and_named(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Reference.parse(text)
    assert repr(text[:64])[:-1] in caught.value.message


name = st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+)*", fullmatch=True).filter(lambda s: len(s) < 30)


@given(st.sampled_from(["", "localhost/", "quay.io/", "h.example:5000/"]), st.lists(name, min_size=1, max_size=3),
       st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True))  # fmt: skip
def test_normalising_twice_changes_nothing(domain: str, parts: list[str], tag: str) -> None:
    once = Reference.parse(
        f"{domain}{'/'.join(parts)}:{tag}" if "." not in parts[0] else f"quay.io/{parts[0]}"
    )
    assert Reference.parse(str(once)) == once


@given(st.text(alphabet=string.printable, max_size=80))
def test_any_text_is_normalised_or_refused(text: str) -> None:
    try:
        made = Reference.parse(text)
    except InvalidArgumentError:
        return
    assert Reference.parse(str(made)) == made
