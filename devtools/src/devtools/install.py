"""`./dev install` and `./dev uninstall`: Slipway as systemd units, from this checkout.

Each install is a folder of its own in /opt/slipway/versions, and `current` a link to one of them: what runs keeps the
files that it started with. Settings in /etc/slipway and data in /var/lib/slipway are the operator's, and stay.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from common.errors import SlipwayError
from common.places import SYSTEMD
from common.sys.files import replace_file, sync_directory
from common.sys.mounts import unmount_below
from devtools.colours import CYAN, RED, coloured
from devtools.fieldwords import field_words
from node import running
from node.layout import SERVICES, Layout
from node.prepare import FIXED

PREFIX = Path("/opt/slipway")
CURRENT = PREFIX / "current"
VERSIONS = PREFIX / "versions"
SETTINGS = Path("/etc/slipway")
UNITS = Path("/usr/local/lib/systemd/system")
"""Of the folders that systemd reads: that of software which no package brought."""
COMMANDS = Path("/usr/local/bin")
SHARE = Path("/usr/local/share")
TEXTS = {
    SHARE / "man/man1/slipway.1": ("man",),
    SHARE / "bash-completion/completions/slipway": ("completion", "bash"),
    SHARE / "zsh/site-functions/_slipway": ("completion", "zsh"),
    SHARE / "fish/vendor_completions.d/slipway.fish": ("completion", "fish"),
}
"""What the command itself prints."""
RUN = Path("/run/slipway")
KEPT = (COMMANDS, SHARE, Path("/usr/local/lib"))
"""Folders of every Debian."""
SHIMS = RUN / "shimd/shims"
PAUSES = RUN / "shimd/pauses"
"""One for each pod that is ready."""
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = ("slipway", "slipway-shims", "slipway-lazy")
"""Of pods that name no parent, of shims, and of what serves lazy layers."""
DATA = Path("/var/lib/slipway")
NETWORKS = DATA / "runtimed/cni"
"""What plugins were told for a pod, until they have undone it."""
OWN_UNITS = "deploy/systemd"
NODE_SETTINGS = """# What all services of this node have in common. After a change, as root:
# slipway-node check --config /etc/slipway/node.toml && systemctl restart slipway-prepare
"""
SERVICE_SETTINGS = """# Settings of {name} that differ from `{prefix}/current/bin/{name} --print-config`.
"""


class InstallError(Exception):
    """One sentence for the user."""


def main() -> None:
    """Install or uninstall; an error is one sentence and status 1."""
    parser = argparse.ArgumentParser(prog="./dev", description=__doc__)
    verbs = parser.add_subparsers(required=True)
    install_verb = verbs.add_parser("install")
    install_verb.add_argument("distributions", nargs="+")
    install_verb.set_defaults(run=lambda arguments: install(Path.cwd(), arguments.distributions))
    uninstall_verb = verbs.add_parser("uninstall", help="remove it all but settings and data")
    uninstall_verb.add_argument("--purge", action="store_true", help="settings and data as well")
    uninstall_verb.add_argument("--force", action="store_true", help="also while containers run")
    uninstall_verb.set_defaults(run=lambda found: uninstall(Path.cwd(), purge=found.purge, force=found.force))
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except (InstallError, SlipwayError, OSError, subprocess.CalledProcessError) as exc:
        sys.exit(coloured(f"dev: {exc}", RED, sys.stderr))


def say(text: str) -> None:
    sys.stderr.write(f"{coloured('==>', CYAN, sys.stderr)} {text}\n")


def install(checkout: Path, distributions: list[str]) -> None:
    """Install what this checkout has, and have running services take it up; containers go on.

    Raises:
        FailedPreconditionError: a node that is not of units runs there.
    """
    running.refuse_others(str(RUN), SYSTEMD)
    sources = {distribution_name(checkout / name): checkout / name for name in distributions}
    del sources["devtools"]
    lock = subset((checkout / "requirements.lock").read_text(), needed(sources))
    version = VERSIONS / digest(lock, sources.values())
    if (version / "installed").exists():
        say(f"{version} is there already")
    else:
        say(f"installing into {version}")
        make_version(version, lock, sources.values())
    replace_link(CURRENT, version)
    write_settings(SERVICES)
    for command in ("slipway", "slipway-node"):
        replace_link(COMMANDS / command, CURRENT / "bin" / command)
    for path, words in TEXTS.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(output([str(COMMANDS / "slipway"), *words]))
    units = sorted((checkout / OWN_UNITS).iterdir())
    say(f"units into {UNITS}: {', '.join(unit.name for unit in units)}")
    UNITS.mkdir(parents=True, exist_ok=True)
    for unit in units:
        shutil.copy(unit, UNITS / unit.name)
    systemctl("daemon-reload")
    systemctl("enable", "--quiet", *(unit.name for unit in units))
    take_up([unit.name for unit in units])
    remove_unused()


def take_up(units: list[str]) -> None:
    """Restart the services that run: not Redis, which is not ours, and not what all others need to go on."""
    if subprocess.run(["systemctl", "is-active", "--quiet", "slipway.target"], check=False).returncode:
        say("installed: `systemctl start slipway.target` starts the node")
        return
    say("restarting the services; containers go on")
    node = [str(CURRENT / "bin/slipway-node"), "prepare", "--config", str(SETTINGS / "node.toml")]
    subprocess.run(node, check=True)
    kept = ("slipway-redis.service", "slipway-prepare.service")
    systemctl("try-restart", *(unit for unit in units if unit.endswith(".service") and unit not in kept))
    systemctl("start", "slipway.target")  # what is new in it


def uninstall(checkout: Path, *, purge: bool, force: bool) -> None:
    """Remove what `install` made, and what the node left in /run and among the cgroups.

    Raises:
        InstallError: containers run, or pods hold their networks.
        FailedPreconditionError: a node that is not of units runs there.
    """
    running.refuse_others(str(RUN), SYSTEMD)
    held = still_held()
    if held and not force:
        message = f"{' and '.join(held)}: remove their pods, or give --force"
        raise InstallError(message)
    units = [unit.name for unit in sorted((checkout / OWN_UNITS).iterdir()) if (UNITS / unit.name).exists()]
    if units:
        say("stopping the node")
        systemctl("disable", "--quiet", "--now", *units)
    places = [*(UNITS / unit for unit in units), COMMANDS / "slipway", COMMANDS / "slipway-node", *TEXTS]
    for place in places:
        place.unlink(missing_ok=True)
        remove_empty(place.parent)
    systemctl("daemon-reload")
    subprocess.run(["systemctl", "reset-failed", "slipway*"], check=False, stderr=subprocess.DEVNULL)
    if held:
        say(f"{' and '.join(held)}: {RUN} stays")
    else:
        unmount_below(RUN)
        remove_tree(RUN)
        for name in OWN_CGROUPS:
            for group in (*CGROUPS.glob(name), *CGROUPS.glob(f"*/{name}")):
                remove_group(group)
    for folder in (PREFIX, *((SETTINGS, DATA) if purge else ())):
        remove_tree(folder)
    if not purge:
        say(f"{SETTINGS} and {DATA} stay; --purge removes them, too")


def still_held() -> list[str]:
    """What runs or is held on behalf of pods, in words."""
    places = ((SHIMS, "containers run"), (PAUSES, "pods are there"), (NETWORKS, "networks of pods are held"))
    found = [(sorted(place.iterdir()) if place.is_dir() else [], what) for place, what in places]
    return [f"{len(paths)} {what}, {paths[0].name} for one" for paths, what in found if paths]


def remove_tree(folder: Path) -> None:
    """Remove a folder, and where it points to when it is a link; what stays is said."""
    place = folder.resolve()
    if not place.is_dir():
        folder.unlink(missing_ok=True)
        return
    say(f"removing {folder}" if place == folder else f"removing {folder}, which is {place}")
    stays: list[str] = []
    shutil.rmtree(place, onerror=lambda _call, path, error: stays.append(f"{path}: {error[1]}"))
    if folder.is_symlink() and not stays:
        folder.unlink()
    if stays:
        say(f"{folder} stays: {len(stays)} could not be removed: {stays[0]}")


def remove_group(group: Path) -> None:
    """Remove a cgroup; one that still has processes or groups in it is said, and stays."""
    try:
        group.rmdir()
    except OSError as exc:
        say(f"{group} stays: {exc.strerror}")


def remove_empty(folder: Path) -> None:
    """Remove a folder of /usr/local and those above it, while there is nothing in them."""
    while folder not in KEPT:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def distribution_name(source: Path) -> str:
    return str(tomllib.loads((source / "pyproject.toml").read_text())["project"]["name"])


def needed(roots: Iterable[str]) -> set[str]:
    """Names of what these distributions need to run, with all that needs in turn; as the lock spells them."""
    found: set[str] = set()
    left = [(name, "") for name in roots]
    while left:
        name, extra = left.pop()
        for line in metadata.requires(name) or ():
            wanted = Requirement(line)
            if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
                continue
            canonical = re.sub(r"[-_.]+", "-", wanted.name).lower()
            more = [(canonical, one) for one in wanted.extras]
            if canonical not in found:
                found.add(canonical)
                more.append((canonical, ""))
            left += more
    return found


def subset(lock: str, names: set[str]) -> str:
    """The requirements of these names, with their hashes."""
    blocks = re.findall(r"^(\S+?)(==[^\\\n]*(?:\\\n[^\\\n]*)+)", lock, re.MULTILINE)
    return "".join(f"{name}{rest}\n" for name, rest in blocks if name in names)


def digest(lock: str, sources: Iterable[Path]) -> str:
    """A name for what gets installed: the same for the same files."""
    total = hashlib.sha256(lock.encode())
    for source in sources:
        for path in sorted([*source.glob("src/**/*"), source / "pyproject.toml"]):
            if path.is_file() and "__pycache__" not in path.parts and ".egg-info" not in str(path):
                total.update(f"{path.relative_to(source.parent)}\0".encode() + path.read_bytes())
    return total.hexdigest()[:12]


def make_version(version: Path, lock: str, sources: Iterable[Path]) -> None:
    """A venv with these distributions; what a broken-off install left is made anew."""
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--clear", str(version)], check=True)
    pip = [str(version / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        (place / "lock").write_text(lock)
        subprocess.run([*pip, "--require-hashes", "-r", str(place / "lock")], check=True)
        copies = [copy_source(source, place / source.name) for source in sources]
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
        build += ["--no-build-isolation", "--wheel-dir", str(place / "wheels")]
        subprocess.run([*build, *map(str, copies)], check=True)
        wheels = [str(path) for path in (place / "wheels").iterdir()]
        subprocess.run([*pip, "--no-index", "--no-deps", *wheels], check=True)
    # a power cut leaves no marker of what is not whole
    subprocess.run(["sync", "--file-system", str(version)], check=True)
    replace_file(version / "installed", b"", 0o644)


def copy_source(source: Path, place: Path) -> Path:
    """A copy to build in: building writes beside the sources."""
    ignore: Callable[[str, list[str]], set[str]] = shutil.ignore_patterns(
        "build", "*.egg-info", "__pycache__"
    )
    shutil.copytree(source, place, ignore=ignore)
    return place


def write_settings(services: Iterable[str]) -> None:
    """Settings files with nothing but comments, where there are none."""
    SETTINGS.mkdir(mode=0o755, exist_ok=True)
    texts = {name: SERVICE_SETTINGS.format(name=name, prefix=PREFIX) for name in services}
    for name, text in ({"node": node_settings()} | texts).items():
        path = SETTINGS / f"{name}.toml"
        if not path.exists():
            path.touch(mode=0o600)  # URLs in it may have passwords
            path.write_text(text)


def node_settings() -> str:
    """node.toml with each key as a comment, and what it is."""
    words = field_words(Layout, Layout)
    keys = [field.name for field in fields(Layout) if field.name not in FIXED]
    plain = asdict(Layout(node="the host's name"))
    return NODE_SETTINGS + "".join(f"\n# {words[key]}\n# {key} = {json.dumps(plain[key])}\n" for key in keys)


def remove_unused() -> None:
    """Remove the versions of which no process has a file mapped."""
    used = {CURRENT.resolve()}
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            text = maps.read_text(errors="replace")
        except OSError:
            continue  # it ended
        used |= {VERSIONS / name for name in re.findall(rf"{VERSIONS}/(\w+)/", text)}
    for version in set(VERSIONS.iterdir()) - used:
        say(f"removing {version}")
        shutil.rmtree(version)


def replace_link(link: Path, target: Path) -> None:
    """Make a symbolic link point elsewhere, without a moment when there is none."""
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)  # noqa: PTH105 - Path.replace says the same
    sync_directory(link.parent)  # before the version that it had is removed


def systemctl(*arguments: str) -> None:
    subprocess.run(["systemctl", *arguments], check=True)


def output(command: list[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
