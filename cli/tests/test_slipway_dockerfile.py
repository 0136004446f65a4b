"""What is no Dockerfile or .dockerignore is told with file and line."""

import pytest

from common.errors import InvalidArgumentError
from slipway.building import dockerfile, ignore

RESETS = {"CMD", "ENTRYPOINT"}


@pytest.mark.parametrize(
    "line", [*sorted(set(dockerfile.WORDS) - RESETS), "RUN []", "RUN --mount=x", "SHELL []"]
)
def test_an_instruction_without_words_is_refused(line: str) -> None:
    body = f"FROM x\n\n{line}\n".encode()
    with pytest.raises(InvalidArgumentError, match=r"^Dockerfile(:3: [A-Z]+)?: "):
        dockerfile.parse("Dockerfile", body)


@pytest.mark.parametrize("line", [*sorted(RESETS), *(f"{word} []" for word in sorted(RESETS))])
def test_what_the_image_below_runs_is_taken_away_by_no_words(line: str) -> None:
    _, (stage,) = dockerfile.parse("Dockerfile", f"FROM x\n{line}\n".encode())
    assert stage.steps[0].words == ()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"kept\n[z-a]\n", r"^\.dockerignore:2: '\[z-a\]' is no pattern: bad character range"),
        (b"kept\n\nd\xe9j\xe0\n", r"^\.dockerignore:3: is no UTF-8$"),
    ],
)
def test_a_dockerignore_that_cannot_be_read_is_refused(body: bytes, told: str) -> None:
    with pytest.raises(InvalidArgumentError, match=told):
        ignore.parse(".dockerignore", body)


def test_a_byte_order_mark_is_part_of_no_pattern() -> None:
    assert ignore.parse(".dockerignore", b"\xef\xbb\xbfa\n").leaves_out("a")
