"""What to do about an OCI runtime's or a set-up's error, by its words: runtimes have no codes."""

import re

_STEPS = (
    (
        r"executable file .*not found|no such file or directory.*exec|exec.*no such file or directory|command not found",
        "Look at the container's command and the image's entrypoint: the program must be in the image, by its whole path or in PATH.",
    ),
    (r"exec format error", "The program is for another architecture, or a script without a #! line."),
    (r"permission denied", "The program must be executable by the container's user, and on no noexec mount."),
    (r"is not on this node|not found.*image|image.*not found", "Pull the image first: `slipway pull IMAGE`."),
    (
        r"does not have it|manifest unknown|no such image|name unknown",
        "Look at the image's name and tag: its registry does not know it.",
    ),
    (
        r"unauthorized|denied: |authentication required",
        "Give credentials: `slipway pull --creds`, or the pod's imagePullSecrets.",
    ),
    (
        r"RegistryUnavailable|connection refused|no route|timed? ?out|Temporary failure",
        "Look whether the registry can be reached from this node.",
    ),
    (
        r"no such user|unable to find user|not in .*passwd",
        "The user must be in the image's /etc/passwd, or be given by number.",
    ),
    (r"no space left|disk .* is full|quota", "Free disk: `slipway rmi` unused images, and look at `df`."),
    (r"seccomp", "Look at the seccomp profile: `slipway doctor` says what this kernel has."),
    (r"cgroup", "Look at the node's cgroups: `slipway doctor` says what is missing."),
    (r"cni|plugin", "Look at the CNI configuration and its plugins: `slipway doctor` looks at both."),
    (r"log file|log_directory", "The directory of the log must be writable by the node."),
    (r"mount", "Look at the paths of the container's mounts."),
    (r"memory", "Look at the memory limit: the OCI runtime itself needs some megabytes."),
)


def steps(message: str) -> list[str]:
    """What to try next; one step, or none when the words are not known."""
    return [step for pattern, step in _STEPS if re.search(pattern, message, re.IGNORECASE)][:1]
