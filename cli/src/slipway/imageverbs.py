"""The command line's words for images: each verb by itself, as docker has them, and below `image`."""

import argparse
from collections.abc import Callable

from slipway.verbs import Verbs, add_output, add_verb

Add = Callable[["Verbs[argparse.ArgumentParser]", str], None]


def add(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    """All verbs of images."""
    image = add_verb(verbs, "image", "list images, or work with them", "images:images")
    add_output(image)
    inner = image.add_subparsers(metavar="COMMAND")
    both: dict[str, Add] = {
        "pull": _pull,
        "tag": _tag,
        "untag": _untag,
        "history": _history,
    }
    for name, add in both.items():
        add(verbs, name)
        add(inner, name)
    _images(verbs, "images")
    _images(inner, "ls")
    _rmi(verbs, "rmi")
    _rmi(inner, "rm")
    inspect = add_verb(inner, "inspect", "all that is known of images, as JSON", "imagefacts:inspect")
    inspect.add_argument("reference", nargs="+")


def _pull(verbs: "Verbs[argparse.ArgumentParser]", name: str) -> None:
    pull = add_verb(verbs, name, "pull an image from its registry", "images:pull")
    pull.add_argument("reference")
    pull.add_argument("--creds", default="", metavar="USER:PASSWORD")
    add_output(pull)


def _images(verbs: "Verbs[argparse.ArgumentParser]", name: str) -> None:
    add_output(add_verb(verbs, name, "list images", "images:images"))


def _rmi(verbs: "Verbs[argparse.ArgumentParser]", name: str) -> None:
    rmi = add_verb(verbs, name, "remove names of images, and images with their last name", "images:rmi")
    rmi.add_argument(
        "-f",
        "--force",
        action="store_true",
        help="also what a container uses, or what several repositories name",
    )
    rmi.add_argument("reference", nargs="+")


def _tag(verbs: "Verbs[argparse.ArgumentParser]", name: str) -> None:
    tag = add_verb(verbs, name, "give an image one more name; another image loses it", "images:tag")
    tag.add_argument("source")
    tag.add_argument("target", metavar="NAME[:TAG]")


def _untag(verbs: "Verbs[argparse.ArgumentParser]", name: str) -> None:
    untag = add_verb(verbs, name, "take names away; the image stays", "images:untag")
    untag.add_argument("reference", nargs="+", help="a name, or an id for all names of an image")


def _history(verbs: "Verbs[argparse.ArgumentParser]", name: str) -> None:
    history = add_verb(verbs, name, "how an image was made, newest step first", "imagefacts:history")
    history.add_argument("--no-trunc", action="store_true", help="whole commands")
    history.add_argument("reference")
    add_output(history)
