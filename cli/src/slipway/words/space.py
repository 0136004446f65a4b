"""The command line's words for what takes space, and for making some."""

import argparse

from slipway.words.verb import Verbs, add_output, add_verb

_PRUNE = """
    slipway prune --dry-run  what would go, and why the rest stays
    slipway prune -f  ended pods of `run`, caches of builds, what failed pulls left, images without a name
    slipway prune -af --filter until=168h  also images that nothing has used for a week"""
_SYSTEM = """
    slipway system df  what images, layers and containers take, and what could go
    slipway system df -v  each image and container"""
_IMAGE = """
    slipway image prune --dry-run -a  each image, and why it would go or stay
    slipway image prune -af --keep-last 2  all but the two newest of each repository
    slipway image prune -af --max-size 20GB  the longest unused, until the rest fits"""


def add(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    """`prune` and `system`."""
    _rules(
        add_verb(
            verbs,
            "prune",
            "remove ended pods of `run`, caches of builds, and images",
            "prune:everything",
            _PRUNE,
        )
    )
    system = add_verb(verbs, "system", "what takes space, and making some", "diskuse:df", _SYSTEM)
    system.set_defaults(verbose=False)
    add_output(system)
    inner = system.add_subparsers(metavar="COMMAND")
    df = add_verb(inner, "df", "what takes space, and what of it could go", "diskuse:df", _SYSTEM)
    df.add_argument("-v", "--verbose", action="store_true", help="each image and container")
    add_output(df)
    _rules(add_verb(inner, "prune", "as `slipway prune`", "prune:everything", _PRUNE))


def add_image_prune(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    """`image prune`."""
    prune = add_verb(
        verbs, "prune", "remove images by rules, and say why each goes or stays", "prune:images", _IMAGE
    )
    _rules(prune)
    prune.add_argument(
        "--keep-last", type=int, default=0, metavar="N", help="not the N newest of each repository"
    )
    prune.add_argument(
        "--max-size",
        default="",
        metavar="20GB",
        help="only until blobs and layers take no more, the longest unused first",
    )


def _rules(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "-a", "--all", action="store_true", help="also images with names, when nothing uses them"
    )
    verb.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="until=24h",
        help="only what was last used longer ago, pods: made (s, m, h, d)",
    )
    verb.add_argument("-n", "--dry-run", action="store_true", help="decide only")
    verb.add_argument("-f", "--force", action="store_true", help="do not ask")
    add_output(verb)
