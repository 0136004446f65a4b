"""The command line's words for what containers changed."""

import argparse

from slipway.words.verb import Verbs, add_output, add_verb

_DIFF = """
    slipway diff web  A added, C changed, D deleted"""
_COMMIT = """
    slipway commit web web:patched  the container stands still meanwhile
    slipway commit -c 'CMD ["app"]' -m "with logs" web web:2  another command, a line in its history"""


def add(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    """`diff` and `commit`."""
    diff = add_verb(verbs, "diff", "what a container changed in its root filesystem", "changes:diff", _DIFF)
    diff.add_argument("container", help="name, id or the beginning of one")
    add_output(diff)
    commit = add_verb(verbs, "commit", "make an image of what a container changed", "changes:commit", _COMMIT)
    commit.add_argument("-a", "--author", default="", help="whom the image names")
    commit.add_argument("-m", "--message", default="", help="for its history")
    commit.add_argument(
        "-c",
        "--change",
        action="append",
        default=[],
        metavar="INSTRUCTION",
        help="CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR, as in a Dockerfile",
    )
    commit.add_argument(
        "-p",
        "--pause",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="hold its processes still meanwhile",
    )
    commit.add_argument("container", help="name, id or the beginning of one")
    commit.add_argument("name", nargs="?", default="", metavar="NAME[:TAG]", help="another image loses it")
