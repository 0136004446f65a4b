"""Why something could not be made or started: rules on the error's words, since programs have no codes.

A rule looks at one kind of trouble, and finds it or nothing; the first one that finds something is right.
"""

import platform
import re
from collections.abc import Callable

from runtimed.why.finding import Finding, Trouble
from runtimed.why.program import Program

Rule = Callable[[Trouble], Finding | None]
_NAMED = r"[`'\"]?(?P<path>/?[^`'\":]+)[`'\"]?"
_EXEC = r"exec (?:container process )?(?:\(missing dynamic library\?\) )?"
_UNTRUSTED, _UNREACHABLE = "SignatureValidationFailed: ", "RegistryUnavailable: "
"""Prefixes that kubelets know (CRI's errors for images)."""
_IMAGE = "image "
"""How errors on an image begin that its registry has caused."""


def of_error(trouble: Trouble, otherwise: str) -> Finding:
    """What the error means; `otherwise` is the cause when no rule knows it, and the words are then its own."""
    for rule in RULES:
        if found := rule(trouble):
            return found
    return Finding(otherwise, trouble.text, _hints(trouble.text))


def program_of(text: str) -> str:
    """The path of the program that the kernel did not run though it is there; empty when the text tells of none."""
    found = re.search(rf"{_EXEC}{_NAMED}: (?:exec format error|no such file)", text, re.IGNORECASE)
    return found["path"] if found else ""


def _exec_format(trouble: Trouble) -> Finding | None:
    found = re.search(rf"{_EXEC}{_NAMED}: exec format error", trouble.text, re.IGNORECASE)
    if not found:
        return None
    match trouble.program:
        case Program(machine=machine) if machine and machine != platform.machine():
            what = f"is for {machine}, and this node is {platform.machine()}"
            step = "Use an image that has this node's processor among its platforms."
        case Program(machine="", interpreter=""):
            what, step = "has no #! line, and is no program", "Begin a script with #! and its interpreter."
        case _:
            what = "is for another processor, or a script without a #! line, or damaged"
            step = "Use an image for this node's processor, or begin the script with #! and its interpreter."
    return Finding("exec-format", f"its program `{found['path']}` {what}", [step])


def _interpreter_missing(trouble: Trouble) -> Finding | None:
    found = re.search(rf"{_EXEC}{_NAMED}: no such file", trouble.text, re.IGNORECASE)
    if not found or trouble.program is None:
        return None
    line = trouble.program.interpreter
    needs = f"the interpreter `{line}`" if line else "a loader of libraries"
    words = f"its program `{found['path']}` needs {needs}, which is not in the image"
    return Finding("command-missing", words, ["Put it into the image, or use a program that needs none."])


def _command_missing(trouble: Trouble) -> Finding | None:
    patterns = (
        rf"executable file {_NAMED} not found",
        rf"exec: {_NAMED}: (?:stat \S+: no such file|executable file not found)",
        rf"error finding executable {_NAMED}",
        rf"{_EXEC}{_NAMED}: no such file",
    )
    for pattern in patterns:
        if found := re.search(pattern, trouble.text, re.IGNORECASE):
            steps = [
                "Look at the command and the image's entrypoint: the program must be in the image, by its whole path or in PATH."
            ]
            return Finding("command-missing", f"its program `{found['path']}` is not in the image", steps)
    return None


def _not_executable(trouble: Trouble) -> Finding | None:
    refused = r"(?:open executable|exec: [^:]+|exec container process [^:]+): (?:permission denied|operation not permitted)"
    if not re.search(refused, trouble.text, re.IGNORECASE):
        return None
    steps = ["It must be a file that the container's user may execute, and on no noexec mount."]
    return Finding("not-executable", "its program may not be executed", steps)


def _unknown_user(trouble: Trouble) -> Finding | None:
    found = re.search(
        r"(?P<kind>user|group) '(?P<name>[^']+)': no valid entry in the image's (?P<file>\S+)", trouble.text
    )
    if not found:
        return None
    steps = [f"Give a number (`--user 1000:1000`, runAsUser), or add it to {found['file']} of the image."]
    words = f"the {found['kind']} `{found['name']}` is not in the image's {found['file']}"
    return Finding("unknown-user", words, steps)


def _directory_missing(trouble: Trouble) -> Finding | None:
    found = re.search(
        rf"(?:chdir(?: to)?|error during container init: mkdir) {_NAMED}: (?P<why>[\w ]+)",
        trouble.text,
        re.IGNORECASE,
    )
    if not found:
        return None
    why = found["why"].strip().lower()
    steps = [
        "Look at --workdir (workingDir) and the image's WORKDIR: it must be a directory, or one that can be made."
    ]
    return Finding(
        "workdir-missing", f"its working directory `{found['path']}` cannot be entered: {why}", steps
    )


def _cni_failed(trouble: Trouble) -> Finding | None:
    if not re.search(r"\bcni (?:plugin|network|result)\b", trouble.text):
        return None
    found = re.search(
        r"cni plugin '(?P<plugin>[^']+)': (?:ADD|DEL|CHECK) failed: (?P<said>.*)", trouble.text, re.DOTALL
    )
    words = f"the network plugin `{found['plugin']}` failed: {found['said']}" if found else trouble.text
    steps = ["Look at the CNI configuration and its plugins: `slipway doctor` looks at both."]
    return Finding("cni-failed", words, steps)


def _image_untrusted(trouble: Trouble) -> Finding | None:
    if not trouble.text.startswith(_UNTRUSTED):
        return None
    steps = [
        "Sign the image with a key of the policy (setting `signature_policy` of imaged), or change the policy."
    ]
    return Finding("image-untrusted", trouble.text.removeprefix(_UNTRUSTED), steps)


def _registry_unreachable(trouble: Trouble) -> Finding | None:
    if not trouble.text.startswith(_UNREACHABLE):
        return None
    steps = ["Look whether its registry can be reached from this node: address, DNS, proxy and certificate."]
    return Finding("registry-unreachable", trouble.text.removeprefix(_UNREACHABLE), steps)


def _image_unauthorized(trouble: Trouble) -> Finding | None:
    if trouble.reason != "PermissionDeniedError" or not trouble.text.startswith(_IMAGE):
        return None
    steps = [
        "Give credentials that may read it: `docker login`, `slipway pull --creds`, or the pod's imagePullSecrets."
    ]
    return Finding("image-unauthorized", trouble.text, steps)


def _image_absent(trouble: Trouble) -> Finding | None:
    if "is not on this node: pull it first" not in trouble.text:
        return None
    return Finding(
        "image-absent",
        trouble.text,
        ["Pull it: `slipway pull IMAGE`; a kubelet does with imagePullPolicy IfNotPresent."],
    )


def _image_not_found(trouble: Trouble) -> Finding | None:
    if trouble.reason != "NotFoundError" or not trouble.text.startswith(_IMAGE):
        return None
    return Finding(
        "image-not-found", trouble.text, ["Look at the image's name and tag: its registry does not know it."]
    )


def _no_space(trouble: Trouble) -> Finding | None:
    if not re.search(r"no space left|quota exceeded", trouble.text, re.IGNORECASE):
        return None
    steps = ["Free disk: `slipway system df` says what holds it, `slipway prune --dry-run` what could go."]
    return Finding("no-space", trouble.text, steps)


RULES: tuple[Rule, ...] = (
    _exec_format,
    _interpreter_missing,
    _command_missing,
    _not_executable,
    _unknown_user,
    _directory_missing,
    _cni_failed,
    _image_untrusted,
    _no_space,
    _registry_unreachable,
    _image_unauthorized,
    _image_absent,
    _image_not_found,
)

_HINTS = (
    (r"seccomp", "Look at the seccomp profile: `slipway doctor` says what this kernel has."),
    (r"cgroup", "Look at the node's cgroups: `slipway doctor` says what is missing."),
    (r"log file|log_directory", "The directory of the log must be writable by the node."),
    (r"mount", "Look at the paths of the container's mounts."),
    (r"memory", "Look at the memory limit: the OCI runtime itself needs some megabytes."),
)


def _hints(text: str) -> list[str]:
    """What to look at for an error that no rule knows; one step, or none."""
    return [step for pattern, step in _HINTS if re.search(pattern, text, re.IGNORECASE)][:1]
