"""The command line's words for images: each verb by itself, as docker has them, and below `image`."""

import argparse
import sys
from collections.abc import Callable

from slipway.words.space import add_image_prune
from slipway.words.verb import Verbs, add_output, add_verb

Add = Callable[["Verbs[argparse.ArgumentParser]", str], None]


_PUSH = """
    slipway push registry.example/app:1  under the name that it has here
    slipway push app:1 registry.example/team/app:1  under another"""
_REFERENCE = "a name, or an id"
_IMAGES = """
    slipway images  names, ids and sizes
    slipway images -a  what steps of builds made, too
    slipway images --format json | jq -r '.[].id'  for programs"""
_INSPECT = "slipway image inspect app:1 | jq '.[0].Config.Entrypoint'  what it runs"
_PULL = """
    slipway pull registry.example/app:1  with a bar for each layer
    slipway pull --all-platforms app:1  all that its index names, for `push` and `save`
    slipway pull --creds me:secret registry.example/app@sha256:...  by digest, as somebody
    slipway pull --priority -1 registry.example/big:1  while no other pull has something to fetch"""
_LOGIN = """
    slipway login registry.example  asks for user and password
    slipway login -u me --password-stdin registry.example < secret  in scripts"""
_LOGOUT = "slipway logout registry.example  also from its credential helper"
_RMI = """
    slipway rmi app:1  this name, and the image with its last one
    slipway rmi -f app:1  also when a container uses it"""
_TAG = "slipway tag app:1 registry.example/app:new  one more name for it"
_UNTAG = "slipway untag registry.example/app:new  the image keeps its others"
_HISTORY = "slipway history --no-trunc app:1  the whole commands that made it"
_LEASE = """
    slipway image lease app:1 --for 24h  no prune and no kubelet takes it for a day
    slipway image lease app:1 --end  and now they may"""
_COPY = """
    slipway image copy a.example/app:1 b.example/app:1  the same digests there"""
_INDEX = """
    slipway image index b.example/app:1 b.example/app:1-amd64 b.example/app:1-arm64  one name for both"""
_SAVE = """
    slipway save app:1 > app.tar  for `docker load`, skopeo (oci-archive:), slipway load
    slipway save --layout app app:1 app:2  a directory for umoci
    slipway save app:1 | ssh host slipway load  to another node, without a registry"""
_LOAD = """
    slipway load -i app.tar  what `save`, docker or skopeo wrote
    slipway load -i layout --name me/app  an OCI layout, whose tags belong to me/app"""


def add(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    """All verbs of images."""
    image = add_verb(verbs, "image", "list images, or work with them", "images:images", _IMAGES)
    image.set_defaults(all=False, quiet=False, digests=False, no_trunc=False, filter=[], wanted="")
    add_output(image)
    inner = image.add_subparsers(metavar="COMMAND")
    both: dict[str, Add] = {
        "pull": _pull,
        "tag": _tag,
        "untag": _untag,
        "history": _history,
        "push": _push,
        "save": _save,
        "load": _load,
    }
    for name, add in both.items():
        add(verbs, name)
        add(inner, name)
    _images(verbs, "images")
    _images(inner, "ls")
    _rmi(verbs, "rmi")
    _rmi(inner, "rm")
    _copy(inner)
    _index(inner)
    _login(verbs)
    _logout(verbs)
    _lease(inner)
    add_image_prune(inner)
    inspect = add_verb(
        inner, "inspect", "all that is known of images, as JSON", "imagefacts:inspect", _INSPECT
    )
    inspect.add_argument("reference", nargs="+", help=_REFERENCE)


def _pull(verbs: "Verbs[argparse.ArgumentParser]", name: str) -> None:
    pull = add_verb(verbs, name, "pull an image from its registry", "images:pull", _PULL)
    pull.add_argument("reference", help="a name, with a tag or a digest")
    _add_quiet(pull)
    pull.add_argument("--creds", default="", metavar="USER:PASSWORD", help="for the registry")
    pull.add_argument(
        "--priority",
        type=_priority,
        default=0,
        metavar="N",
        help="of pulls that wait, the highest comes first; a kubelet's have 0 (%(default)s)",
    )
    pull.add_argument(
        "--lazy",
        action="store_true",
        help="layers of eStargz or zstd:chunked form may come while they are used (docs/lazy.md)",
    )
    _add_platforms(pull, "in place of this node's", "also what is for other platforms, to push or save it")
    add_output(pull)


def _add_platforms(verb: argparse.ArgumentParser, one: str, every: str) -> None:
    which = verb.add_mutually_exclusive_group()
    which.add_argument("--platform", default="", metavar="OS/ARCH", help=f"as linux/arm64: {one}")
    which.add_argument("--all-platforms", action="store_true", help=every)


def _add_quiet(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("-q", "--quiet", action="store_true", help="no progress, not on a terminal either")


def _login(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    login = add_verb(verbs, "login", "log in to a registry, as docker does", "logins:login", _LOGIN)
    login.add_argument("registry", help="a host, with its port")
    login.add_argument("-u", "--username", default="", metavar="USER", help="asked for on a terminal")
    login.add_argument(
        "--password-stdin",
        action="store_true",
        help="read the password from standard input; else it is asked for",
    )


def _logout(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    logout = add_verb(verbs, "logout", "forget a login", "logins:logout", _LOGOUT)
    logout.add_argument("registry", help="a host, with its port")


def _priority(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = sys.maxsize
    if not -1000 <= number <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from -1000 to 1000")
    return number


def _push(verbs: "Verbs[argparse.ArgumentParser]", name: str) -> None:
    push = add_verb(verbs, name, "push an image to its registry", "pushes:push", _PUSH)
    push.add_argument("reference", help=_REFERENCE)
    push.add_argument("target", nargs="?", default="", help="another name for it at the registry")
    _add_quiet(push)
    push.add_argument("--creds", default="", metavar="USER:PASSWORD", help="for the registry")
    _add_platforms(
        push,
        "this one's manifest; without it, all platforms when all are here",
        "fail unless all that the image was pulled by is here",
    )
    add_output(push)


def _copy(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    copy = add_verb(
        verbs, "copy", "copy an image with all its platforms between registries", "pushes:copy", _COPY
    )
    copy.add_argument("source", help="a name at its registry")
    copy.add_argument("target", help="its name at the other")
    _add_quiet(copy)
    copy.add_argument("--source-creds", default="", metavar="USER:PASSWORD", help="for the source's registry")
    copy.add_argument("--creds", default="", metavar="USER:PASSWORD", help="for the target's registry")
    add_output(copy)


def _index(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    index = add_verb(
        verbs,
        "index",
        "make one image of several at registries, each for its platform",
        "pushes:index",
        _INDEX,
    )
    index.add_argument("target", help="its name at a registry")
    index.add_argument("source", nargs="+", help="a name at its registry, of one platform or several")
    _add_quiet(index)
    index.add_argument(
        "--source-creds", default="", metavar="USER:PASSWORD", help="for the sources' registries"
    )
    index.add_argument("--creds", default="", metavar="USER:PASSWORD", help="for the target's registry")
    add_output(index)


def _lease(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    lease = add_verb(verbs, "lease", "hold an image against collection for a time", "images:lease", _LEASE)
    lease.add_argument("reference", help=_REFERENCE)
    lease.add_argument("--name", default="slipway", help="of the lease: an image may have several")
    long = lease.add_mutually_exclusive_group(required=True)
    long.add_argument("--for", dest="span", default="", metavar="24h", help="from now (s, m, h, d)")
    long.add_argument("--end", action="store_true", help="end it")


def _images(verbs: "Verbs[argparse.ArgumentParser]", name: str) -> None:
    images = add_verb(verbs, name, "list images", "images:images", _IMAGES)
    _add_choice(images)


def _add_choice(images: argparse.ArgumentParser) -> None:
    images.add_argument(
        "-a", "--all", action="store_true", help="also what builds keep of their steps, and its names"
    )
    images.add_argument("-q", "--quiet", action="store_true", help="ids only")
    images.add_argument("--digests", action="store_true", help="the digest of each name at its registry, too")
    images.add_argument("--no-trunc", action="store_true", help="whole ids")
    images.add_argument(
        *("-f", "--filter"),
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="reference (with * and ?), id or dangling; several of one key are alternatives",
    )
    images.add_argument("wanted", nargs="?", default="", metavar="NAME[:TAG]", help="those of this name only")
    add_output(images)


def _rmi(verbs: "Verbs[argparse.ArgumentParser]", name: str) -> None:
    rmi = add_verb(verbs, name, "remove names of images, and images with their last name", "images:rmi", _RMI)
    rmi.add_argument(
        "-f",
        "--force",
        action="store_true",
        help="also what a container uses, or what several repositories name",
    )
    rmi.add_argument("reference", nargs="+", help=_REFERENCE)


def _tag(verbs: "Verbs[argparse.ArgumentParser]", name: str) -> None:
    tag = add_verb(verbs, name, "give an image one more name; another image loses it", "images:tag", _TAG)
    tag.add_argument("source", help=_REFERENCE)
    tag.add_argument("target", metavar="NAME[:TAG]", help="the new name")


def _untag(verbs: "Verbs[argparse.ArgumentParser]", name: str) -> None:
    untag = add_verb(verbs, name, "take names away; the image stays", "images:untag", _UNTAG)
    untag.add_argument("reference", nargs="+", help="a name, or an id for all names of an image")


def _history(verbs: "Verbs[argparse.ArgumentParser]", name: str) -> None:
    history = add_verb(
        verbs, name, "how an image was made, newest step first", "imagefacts:history", _HISTORY
    )
    history.add_argument("--no-trunc", action="store_true", help="whole commands, and whole ids")
    history.add_argument("-q", "--quiet", action="store_true", help="the ids of images only")
    history.add_argument("reference", help=_REFERENCE)
    add_output(history)


def _save(verbs: "Verbs[argparse.ArgumentParser]", name: str) -> None:
    save = add_verb(
        verbs, name, "write images as one tar that OCI tools and docker read", "archives:save", _SAVE
    )
    where = save.add_mutually_exclusive_group()
    where.add_argument(
        "-o", "--output", dest="file", default="", metavar="FILE", help="in place of standard output"
    )
    where.add_argument("--layout", default="", metavar="DIR", help="an OCI layout as a new directory instead")
    _add_platforms(
        save,
        "this one alone; without it, all platforms when all are here",
        "fail unless all that an image was pulled by is here",
    )
    _add_quiet(save)
    save.add_argument("reference", nargs="+", help=_REFERENCE)


def _load(verbs: "Verbs[argparse.ArgumentParser]", name: str) -> None:
    load = add_verb(
        verbs,
        name,
        "take images from a tar or an OCI layout, as others or `save` wrote it",
        "archives:load",
        _LOAD,
    )
    load.add_argument(
        "-i",
        "--input",
        default="",
        metavar="FILE|DIR",
        help="in place of standard input; may be gzip or zstd",
    )
    _add_quiet(load)
    load.add_argument(
        "--name",
        default="",
        metavar="NAME[:TAG]",
        help="name for the only image; of several, the repository of their tags",
    )
    load.add_argument(
        "--platform", default="", metavar="OS/ARCH", help="as linux/arm64: in place of this node's"
    )
    load.add_argument(
        "--replace",
        action="store_true",
        help="names may leave the images that have them; without it none does",
    )
