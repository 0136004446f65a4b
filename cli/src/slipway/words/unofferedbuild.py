"""Options of docker's `build` that are not there: what to do instead."""

_CACHE = "steps are cached on the node, and not elsewhere"
_LIMITS = "a build has the limits of the node"
_PROOFS = "images are made without attestations: sign them after `slipway push`"
WHY = {
    "--load": "the image is always on the node",
    "--push": "`slipway push` afterwards",
    "--output": "the image stays on the node: `slipway save` writes it, `slipway cp` takes files of a container",
    "--squash": "an image has a layer for each step that changes files: join them in one RUN, or COPY --from a stage",
    "--ssh": "give a key as --secret",
    "--add-host": "write it in the RUN that needs it",
    "--build-context": "COPY takes from the context, stages and images",
    "--annotation": "give a --label",
    "--metadata-file": "--iidfile has the image's id, `slipway image inspect` the rest",
    "--no-cache-filter": "--no-cache does each step anew",
    "--cache-from": _CACHE,
    "--cache-to": _CACHE,
    "--attest": _PROOFS,
    "--provenance": _PROOFS,
    "--sbom": _PROOFS,
    "--rm": "containers of a build always go",
    "--force-rm": "containers of a build always go",
    "--memory": _LIMITS,
    "--memory-swap": _LIMITS,
    "--cpu-shares": _LIMITS,
    "--cpu-period": _LIMITS,
    "--cpu-quota": _LIMITS,
    "--cpuset-cpus": _LIMITS,
    "--cpuset-mems": _LIMITS,
    "--ulimit": _LIMITS,
    "--shm-size": _LIMITS,
    "--cgroup-parent": _LIMITS,
    "--security-opt": "commands run under the default seccomp profile, without privileges",
    "--allow": "commands run under the default seccomp profile, without privileges",
    "--builder": "builds are done by the node",
    "--compress": "the context is read where it is",
    "--isolation": "commands run in containers of the node",
    "--disable-content-trust": "whose images are trusted is in the settings of imaged",
    "--call": "only builds are done",
    "--check": "only builds are done",
    "--debug": "--progress plain shows all that commands write",
}
"""Why each is not offered, and what to do instead."""
SHORT = {"-o": "--output", "-m": "--memory", "-c": "--cpu-shares", "-D": "--debug"}
