"""Commands and options that are not there: what to say of docker's, and which of ours is near to a wrong one."""

import difflib
from collections.abc import Collection, Iterable, Sequence

from slipway.words import unofferedbuild

CLOSE = 0.75
"""How much two names must have in common for one to be a slip of the other."""
TEMPLATES = "templates are not offered: pipe the JSON to jq, as in the examples"
PS = "`slipway top NAME -o json | jq '.[].pid'` has the ids for ps"
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
"""Why options of docker's `run` are not offered, and what to do instead."""
_OTHERS = (
    *("--blkio-weight", "--blkio-weight-device", "--cgroup-parent", "--cgroupns"),
    *("--cpu-rt-period", "--cpu-rt-runtime", "--device-cgroup-rule"),
    *("--device-read-bps", "--device-read-iops", "--device-write-bps", "--device-write-iops"),
    *("--disable-content-trust", "--domainname", "--health-interval", "--health-retries"),
    *("--health-start-interval", "--health-start-period", "--health-timeout", "--ip6", "--isolation"),
    *("--kernel-memory", "--link-local-ip", "--memory-swappiness"),
    *("--storage-opt", "--use-api-socket", "--uts"),
)
_RUN = dict.fromkeys(_OTHERS, "") | {name: why for name, why in WHY.items() if name != "--restart"}
_PLATFORM = "an image stands for its part of the node's own platform"
_TAGS = "give each name"
_TRUST = "whose images are trusted is in the settings of imaged"
_REGISTRY = {"--all-tags": _TAGS, "--disable-content-trust": _TRUST}
_CHECKPOINT = "a kubelet restores checkpoints, over CRI"
REFUSED: dict[str, dict[str, str]] = {
    "run": _RUN,
    "create": {name: why for name, why in _RUN.items() if name != "--sig-proxy"},
    "build": unofferedbuild.WHY,
    "update": {
        name: WHY.get(name, "")
        for name in (
            *("--blkio-weight", "--cpu-period", "--cpu-quota", "--cpu-rt-period", "--cpu-rt-runtime"),
            *("--kernel-memory", "--memory-reservation", "--restart"),
        )
    },
    "inspect": {"--format": TEMPLATES},
    "image inspect": {"--format": TEMPLATES, "--platform": _PLATFORM},
    "start": {"--checkpoint": _CHECKPOINT, "--checkpoint-dir": _CHECKPOINT},
    "rm": {"--link": "there are no links: run both in a pod, `slipway pods run`"},
    "logs": {"--details": "lines of a log have no labels: `slipway inspect` shows the container's"},
    "history": {"--human": "sizes and times are exact in JSON: -o json", "--platform": _PLATFORM},
    "images": {"--tree": _PLATFORM},
    "rmi": {"--no-prune": "an image has no parents that would go with it", "--platform": _PLATFORM},
    "pull": _REGISTRY,
    "push": _REGISTRY,
    "login": {"--password": "others see a command's words: --password-stdin"},
    "system prune": {"--volumes": "an image's volumes go with their container"},
}
"""Options of docker's that each command does not offer, and what to do instead; nothing where there is nothing."""
_SHORT = {
    "run": {"-P": "--publish-all", "-a": "--attach", "-q": "--quiet"},
    "create": {"-P": "--publish-all", "-a": "--attach", "-q": "--quiet"},
    "build": unofferedbuild.SHORT,
    "inspect": {"-f": "--format"},
    "image inspect": {"-f": "--format"},
    "rm": {"-l": "--link"},
    "history": {"-H": "--human"},
    "pull": {"-a": "--all-tags"},
    "push": {"-a": "--all-tags"},
    "login": {"-p": "--password"},
}
_BELOW_IMAGE = {"image ls": "images", "image rm": "rmi"}
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
    "manifest": "`slipway image index` makes an index, `slipway image copy` takes images with all their platforms along",
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


def names_of(command: str) -> dict[str, str]:
    """Each name of an option that a command refuses, short ones too, with why; a command is `run` or `image ls`."""
    top = _BELOW_IMAGE.get(command, command.removeprefix("image "))
    of = command if command in REFUSED else top
    refused = REFUSED.get(of, {})
    return refused | {short: refused[long] for short, long in _SHORT.get(of, {}).items()}


def refusal(command: str, words: Sequence[str], known: Iterable[str]) -> str:
    """One sentence on the first of the words that a command does not know.

    Args:
        command: its words, without the first.
        words: what it does not know, as it was given.
        known: its options.
    """
    word = words[0].partition("=")[0]
    if not word.startswith("-"):
        return f"unrecognized arguments: {' '.join(words)}" + (f": {PS}" if command == "top" else "")
    shown = word if word.startswith("--") else word[:2]
    why = names_of(command).get(shown)
    if why is not None:
        return why if why == TEMPLATES else f"{shown} of docker is not offered" + (f": {why}" if why else "")
    if command == "top":
        return f"options of ps are not offered: {PS}"
    near = difflib.get_close_matches(
        word, [name for name in known if name.startswith("--")], n=2, cutoff=CLOSE
    )
    return f"no option {word}" + (f", perhaps {' or '.join(near)}" if near else "")
