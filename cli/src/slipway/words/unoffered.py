"""Commands and options that are not there: what to say of docker's, and which of ours is near to a wrong one."""

import difflib
from collections.abc import Collection, Iterable, Sequence

from slipway.words import unofferedbuild

CLOSE = 0.75
"""How much two names must have in common for one to be a slip of the other."""
WHY = {
    "--init": "a container's first process is its program: put an init such as tini into the image",
    "--restart": "nothing starts a container again when it ends: use a kubelet, or a unit of systemd",
    "--volumes-from": "give the same -v to both",
    "--volume-driver": "volumes are paths of the node: -v HOST:CONTAINER",
    "--link": "run both in a pod: `slipway pods run`",
    "--publish-all": "publish ports one by one: -p",
    "--health-cmd": "probes are a kubelet's",
    "--log-driver": "output goes to a log file: `slipway logs`",
    "--memory-reservation": "limits are those of CRI: --memory",
    "--ip": "addresses are the CNI plugins' to give",
    "--mac-address": "addresses are the CNI plugins' to give",
    "--userns": "a kubelet asks for user namespaces; the command does not",
    "--platform": "images of other platforms do not run here",
    "--gpus": "devices are given by --device",
    "--attach": "`run` has the container's streams unless -d is given: redirect those that nobody is to see",
    "--cidfile": "the id is what `slipway create` and `run -d` print",
    "--shm-size": "give it a file system of this size: --tmpfs /dev/shm:size=1g",
    "--expose": "it changes nothing: publish a port with -p, or reach it by `slipway port-forward`",
    "--cpu-quota": "give the number of processors: --cpus",
    "--cpu-period": "give the number of processors: --cpus",
    "--stop-timeout": "give it to `slipway stop -t`",
    "--oom-kill-disable": "choose how soon the kernel kills it: --oom-score-adj",
    "--log-opt": "output goes to a log file: `slipway logs`",
    "--no-healthcheck": "an image's health check is not run here: probes are a kubelet's",
    "--network-alias": "nothing here resolves the names of containers: --add-host",
    "--quiet": "progress goes to standard error, and only a terminal has bars",
    "--sig-proxy": "signals go to the container as long as `run` is attached",
}
"""Why an option of docker's is not offered, and what to do instead."""
OTHERS = (
    *("--blkio-weight", "--blkio-weight-device", "--cgroup-parent", "--cgroupns"),
    *("--cpu-rt-period", "--cpu-rt-runtime", "--device-cgroup-rule"),
    *("--device-read-bps", "--device-read-iops", "--device-write-bps", "--device-write-iops"),
    *("--disable-content-trust", "--domainname", "--health-interval", "--health-retries"),
    *("--health-start-interval", "--health-start-period", "--health-timeout", "--ip6", "--isolation"),
    *("--kernel-memory", "--link-local-ip", "--memory-swappiness"),
    *("--storage-opt", "--use-api-socket", "--uts"),
)
"""Other options of docker's `run` that are not offered."""
SHORT = {"-P": "--publish-all", "-a": "--attach", "-q": "--quiet"}
"""The short forms among all these."""

_KUBERNETES = "clusters are Kubernetes' to keep: this is one node"
VERBS = {
    "info": "`slipway status` shows the node, `slipway doctor` what it lacks, `slipway system df` what takes space",
    "version": "`slipway --version`, and `slipway status` for the node's",
    "container": "commands of containers stand by themselves",
    "network": "networks are CNI's: files in /etc/cni/net.d, and --network of `slipway run`",
    "volume": "there are no volumes but paths of the node: -v HOST:CONTAINER",
    "rename": "a container keeps its name: `slipway create --name` gives it",
    "export": "`slipway cp NAME:/PATH -` is a tar of files, `slipway commit` and `slipway save` give one of all",
    "import": "`slipway load` takes images; one of files alone is built FROM scratch, with ADD",
    "search": "ask the registry's own pages",
    "builder": "`slipway build` builds, and `slipway prune` removes its caches",
    "buildx": "`slipway build` builds",
    "compose": "a pod in a file is run by `slipway pods run -f`",
    "checkpoint": "a kubelet makes checkpoints, over CRI",
    "context": "another node on this machine is given by --run-dir",
    "manifest": "`slipway image copy` takes images with all their platforms from registry to registry",
    "plugin": "networks are CNI's, devices CDI's, and runtimes the node's settings'",
    "trust": "whose signatures images need is in the settings of imaged",
    "node": _KUBERNETES,
    "secret": _KUBERNETES,
    "service": _KUBERNETES,
    "stack": _KUBERNETES,
    "swarm": _KUBERNETES,
}
"""Commands of docker's that are not offered, and what to do instead."""
_LISTERS = {"": "ps", "ls": "ps", "list": "ps"}


def no_command(words: Sequence[str], known: Iterable[str], top: Collection[str]) -> str:
    """One sentence on a command that is not there.

    Args:
        words: it, and what follows it.
        known: the commands that could stand there.
        top: those that stand by themselves.
    """
    name, following = words[0], "".join(words[1:2])
    told = f"no command {name!r}"
    if name == "container" and following not in VERBS:
        ours = _LISTERS.get(following, following)
        return f"{told}: {VERBS[name]}: `slipway {ours if ours in top else 'ps'}`"
    name = following if name == "container" else name
    if name in VERBS:
        return f"{told}: {VERBS[name]}"
    if name in top:
        return f"{told}: it stands by itself: `slipway {name}`"
    near = difflib.get_close_matches(name, known)
    return told + (f", perhaps {' or '.join(near)}" if near else "")


TEMPLATES = "templates are not offered: pipe the JSON to jq, as in the examples"


def refusal(verb: str, words: Sequence[str], known: Iterable[str]) -> str:
    """One sentence on the first of the words that a command does not know.

    Args:
        verb: the last word of the command.
        words: what it does not know, as it was given.
        known: its options.
    """
    word = words[0].partition("=")[0]
    if not word.startswith("-"):
        return f"unrecognized arguments: {' '.join(words)}"
    if verb in ("run", "create"):
        shown = word if word.startswith("--") else word[:2]
        long = SHORT.get(shown, shown)
        if long in WHY or long in OTHERS:
            return f"{shown} of docker is not offered" + (f": {WHY[long]}" if long in WHY else "")
    if verb == "inspect" and (word[:2] == "-f" or word == "--format"):
        return TEMPLATES
    if verb == "build" and (told := unofferedbuild.refusal(word)):
        return told
    near = difflib.get_close_matches(
        word, [name for name in known if name.startswith("--")], n=2, cutoff=CLOSE
    )
    return f"no option {word}" + (f", perhaps {' or '.join(near)}" if near else "")
