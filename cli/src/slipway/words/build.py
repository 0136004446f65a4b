"""The command line's word for builds."""

import argparse

from slipway.words.verb import Verbs, add_verb

_BUILD = """
    slipway build -t app:1 .  from ./Dockerfile
    slipway build -f deploy/Dockerfile --target test --build-arg V=2 .  one stage, with an argument
    slipway build -t app:1 --pull --label "commit=$(git rev-parse HEAD)" .  with the newest base
    slipway build -t app:1 - < Dockerfile  without files
    slipway build --secret id=token,src=token.txt .  for RUN --mount=type=secret,id=token"""


def add(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    """`build`."""
    build = add_verb(verbs, "build", "build an image from a Dockerfile", "build:build", _BUILD)
    build.add_argument(
        "-f", "--file", default="", help="the Dockerfile, in place of CONTEXT/Dockerfile; - is standard input"
    )
    build.add_argument(
        "-t", "--tag", action="append", default=[], metavar="NAME[:TAG]", help="another image loses it"
    )
    build.add_argument("--target", default="", metavar="STAGE", help="in place of the last stage")
    build.add_argument(
        "--build-arg", action="append", default=[], metavar="NAME[=VALUE]", help="value of an ARG"
    )
    build.add_argument(
        "--secret", action="append", default=[], metavar="id=ID,src=FILE", help="or id=ID,env=NAME"
    )
    build.add_argument(
        "--label", action="append", default=[], metavar="NAME[=VALUE]", help="a label of the image"
    )
    build.add_argument("--platform", default="", metavar="linux/amd64", help="must be this machine's")
    build.add_argument(
        "--pull", action="store_true", help="images that the Dockerfile names, also those here"
    )
    build.add_argument("--no-cache", action="store_true", help="do each step anew")
    build.add_argument(
        "--progress", choices=("auto", "plain"), default="auto", help="plain: lines on a terminal, too"
    )
    build.add_argument("--network", choices=("pod", "host"), default="pod", help="of RUN (%(default)s)")
    build.add_argument("--iidfile", default="", metavar="FILE", help="gets the image's id")
    build.add_argument("-q", "--quiet", action="store_true", help="print the id only")
    build.add_argument(
        "context",
        metavar="CONTEXT",
        help="the directory that COPY takes from; -: none, and the Dockerfile is standard input",
    )
