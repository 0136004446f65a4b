"""The command line's words for pods."""

import argparse

from slipway.words.verb import Verbs, add_output, add_verb


def add(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    """`pods`, and the verbs below it."""
    examples = """
        slipway pods  list them
        slipway pods inspect web  one, as JSON
        slipway pods rm -f web  with all that runs in it"""
    pods = add_verb(verbs, "pods", "list pods, or work with them", "lists:pods", examples)
    add_output(pods)
    inner = pods.add_subparsers(metavar="COMMAND")
    ps = add_verb(
        inner, "ps", "list pods, as without a command", "lists:pods", "slipway pods ps -o json  for programs"
    )
    add_output(ps)
    _run(inner)
    inspect = add_verb(
        inner,
        "inspect",
        "all that is known of pods, as JSON",
        "facts:pods",
        "slipway pods inspect web | jq -r '.[0].status.network.ip'  its address",
    )
    stop = add_verb(
        inner,
        "stop",
        "stop pods, with all their containers",
        "pods:stop",
        "slipway pods stop web  it can be removed then",
    )
    rm = add_verb(
        inner,
        "rm",
        "remove pods, with all their containers",
        "pods:rm",
        "slipway pods rm -f web  also when it runs",
    )
    rm.add_argument("-f", "--force", action="store_true", help="ready ones too")
    for verb in (inspect, stop, rm):
        verb.add_argument("pod", nargs="+", help="name, id or the beginning of one")


def _run(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    examples = """
        slipway pods run -f pod.yaml  name: web, ports: ['8080:80'], containers: [{image: nginx}, {image: app, env: {A: b}}]
        slipway pods run --name web -p 8080:80 nginx app:1  one container of each image
        slipway pods run -f - < cri.json  {"sandbox": PodSandboxConfig, "containers": [ContainerConfig]}"""
    run = add_verb(verbs, "run", "run a pod with several containers", "pods:run", examples)
    run.add_argument("-f", "--file", default="", metavar="FILE", help="YAML or JSON; - is standard input")
    run.add_argument("--name", default="", help="of the pod; one from the first image's without this")
    run.add_argument(
        *("-p", "--publish"),
        action="append",
        default=[],
        metavar="[IP:]HOST:CONTAINER[/PROTOCOL]",
        help="a port of the node",
    )
    run.add_argument("--hostname", default="", help="of the pod")
    run.add_argument(
        *("--network", "--net"), choices=("pod", "host"), default="pod", help="of its own, or the node's"
    )
    run.add_argument(
        *("--handler", "--runtime"), default="", help="crun, runc or another of the node's settings"
    )
    run.add_argument("images", nargs="*", metavar="IMAGE", help="a reference, or an id")
