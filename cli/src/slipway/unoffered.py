"""Options that are not there: what to say of docker's, and which of ours is near to a wrong one."""

import difflib
from collections.abc import Iterable, Sequence

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
}
"""Why an option of docker's is not offered, and what to do instead."""
OTHERS = (
    *("--attach", "--blkio-weight", "--blkio-weight-device", "--cgroup-parent", "--cgroupns", "--cidfile"),
    *("--cpu-period", "--cpu-quota", "--cpu-rt-period", "--cpu-rt-runtime", "--device-cgroup-rule"),
    *("--device-read-bps", "--device-read-iops", "--device-write-bps", "--device-write-iops"),
    *("--disable-content-trust", "--domainname", "--expose", "--health-interval", "--health-retries"),
    *("--health-start-interval", "--health-start-period", "--health-timeout", "--ip6", "--isolation"),
    *("--kernel-memory", "--link-local-ip", "--log-opt", "--memory-swappiness", "--network-alias"),
    *("--no-healthcheck", "--oom-kill-disable", "--quiet", "--shm-size", "--sig-proxy", "--stop-timeout"),
    *("--storage-opt", "--use-api-socket", "--uts"),
)
"""Other options of docker's `run` that are not offered."""


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
    if verb in ("run", "create") and (word in WHY or word in OTHERS):
        return f"{word} of docker is not offered" + (f": {WHY[word]}" if word in WHY else "")
    near = difflib.get_close_matches(
        word, [name for name in known if name.startswith("--")], n=2, cutoff=CLOSE
    )
    return f"no option {word}" + (f", perhaps {' or '.join(near)}" if near else "")
