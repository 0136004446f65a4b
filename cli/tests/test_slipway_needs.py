"""Which stages a build needs."""

from slipway.building.dockerfile import parse
from slipway.building.needs import needed

TEXT = """
ARG BASE=base
FROM busybox AS base
FROM busybox AS tools
FROM busybox AS unneeded
FROM $BASE AS made
ARG WHERE=tools
RUN --mount=type=bind,from=tools,target=/t --mount=type=cache,target=/c true
FROM busybox AS late
COPY --from=1 /a /b
COPY --from=$WHERE /a /b
FROM busybox
COPY --from=made /a /b
COPY --from=nginx /a /b
"""


def test_what_a_stage_names_is_needed_and_nothing_else() -> None:
    _, stages = parse("Dockerfile", TEXT.encode())
    names = [stage.name or "last" for stage in stages]
    found = {name: {names[n] for n in needed(stages, names.index(name), {"BASE": "base"})} for name in names}
    assert found["last"] == {"last", "made", "base", "tools"}
    assert found["late"] == {"late", "tools"}
    assert found["unneeded"] == {"unneeded"}
