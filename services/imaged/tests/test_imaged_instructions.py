"""Changes of an image's config, as `docker commit --change` takes them."""

import pytest

from common.errors import InvalidArgumentError
from imaged.instructions import apply

OLD = {"Env": ["PATH=/bin", "A=1"], "Labels": {"x": "1"}, "WorkingDir": "/srv", "Cmd": ["old"]}


@pytest.mark.parametrize(
    ("instruction", "changed"),
    [
        ('CMD ["sh", "-c", "echo hi"]', {"Cmd": ["sh", "-c", "echo hi"]}),
        ("CMD echo hi", {"Cmd": ["/bin/sh", "-c", "echo hi"]}),
        ("CMD", {"Cmd": []}),
        ("CMD [ -f x ]", {"Cmd": ["/bin/sh", "-c", "[ -f x ]"]}),
        ("CMD " + "[" * 9999, {"Cmd": ["/bin/sh", "-c", "[" * 9999]}),
        ('entrypoint ["/app"]', {"Entrypoint": ["/app"]}),
        ("ENV A=2 B='two words'", {"Env": ["PATH=/bin", "A=2", "B=two words"]}),
        ("ENV OLD form of it", {"Env": ["PATH=/bin", "A=1", "OLD=form of it"]}),
        ('LABEL y="2" z=', {"Labels": {"x": "1", "y": "2", "z": ""}}),
        ("EXPOSE 80 53/udp", {"ExposedPorts": {"80/tcp": {}, "53/udp": {}}}),
        ("USER 1000:1000", {"User": "1000:1000"}),
        ('VOLUME ["/data", "/more"]', {"Volumes": {"/data": {}, "/more": {}}}),
        ("VOLUME /data /more", {"Volumes": {"/data": {}, "/more": {}}}),
        ("WORKDIR /new", {"WorkingDir": "/new"}),
        ("WORKDIR below", {"WorkingDir": "/srv/below"}),
        ("STOPSIGNAL SIGINT", {"StopSignal": "SIGINT"}),
    ],
)
def test_an_instruction_changes_what_it_is_for(instruction: str, changed: dict[str, object]) -> None:
    before = repr(OLD)
    assert apply(OLD, instruction) == OLD | changed
    assert repr(OLD) == before


@pytest.mark.parametrize(
    "instruction",
    [
        "",
        "RUN x",
        "COPY a b",
        "ENV",
        "ENV =x",
        "ENV A=1 B",
        "EXPOSE web",
        "EXPOSE 80/x",
        "CMD [1]",
        "LABEL a='",
    ],
)
def test_what_is_malformed_is_refused_by_name(instruction: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^change "):
        apply(OLD, instruction)


def test_a_health_check_and_a_shell_are_told_as_docker_tells_them() -> None:
    config = apply({}, 'SHELL ["/bin/bash", "-c"]')
    assert apply(config, "CMD a b")["Cmd"] == ["/bin/bash", "-c", "a b"]
    checked = apply(config, 'HEALTHCHECK --interval=1m30s --timeout=500ms --retries=2 CMD ["a", "b"]')
    expected = {"Test": ["CMD", "a", "b"], "Interval": 90 * 10**9, "Timeout": 500 * 10**6, "Retries": 2}
    assert checked["Healthcheck"] == expected
    assert apply(config, "HEALTHCHECK NONE")["Healthcheck"] == {"Test": ["NONE"]}
    for wrong in ("HEALTHCHECK", "HEALTHCHECK --interval=x CMD a", "HEALTHCHECK curl", "SHELL /bin/sh"):
        with pytest.raises(InvalidArgumentError, match=r"want|nothing"):
            apply(config, wrong)
