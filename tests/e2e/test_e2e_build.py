"""Images built from Dockerfiles by the slipway command, on a real node."""

import fcntl
import gzip
import hashlib
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zstandard

from slipway.building import platform
from tests.support.eventually import eventually
from tests.support.node import TestNode

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]
STAGES = """
ARG BASE
FROM $BASE AS made
ARG WHO=nobody
ENV GREETING="hello $WHO" PLAIN=1
WORKDIR /work/sub
COPY --chown=7:8 . ./
RUN --mount=type=cache,target=/cache --mount=type=secret,id=key \\
    cat /run/secrets/key >/dev/null && echo "$GREETING" > greeting && pwd > /where
RUN <<EOF
echo one > /one
echo two >> /one
EOF

FROM scratch AS unused
RUN this is never done

FROM $BASE
LABEL "a b"="c d"
COPY --from=made /work/sub /where /one /app/
USER 7:8
EXPOSE 80
HEALTHCHECK --interval=30s --retries=2 CMD true
SHELL ["/bin/sh", "-ec"]
ENTRYPOINT ["cat"]
CMD ["/app/greeting", "/app/where", "/app/one"]
"""


def built(
    node: TestNode, context: Path, *words: str, **environment: str
) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).parent / "slipway"), "--run-dir", str(node.run_dir), "build"]
    command += ["--network", "host", *words, str(context)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False, env=os.environ | environment
    )


@pytest.fixture
def context(tmp_path: Path) -> Path:
    made = tmp_path / "context"
    (made / "dir").mkdir(parents=True)
    (made / "dir" / "kept").write_text("kept")
    (made / "dir" / "left.log").write_text("left")
    (made / ".dockerignore").write_text("**/*.log\nDockerfile\n.dockerignore\n")
    (tmp_path / "key").write_text("secret")
    return made


def test_stages_arguments_and_mounts_make_an_image_that_others_read(
    node: TestNode, busybox: str, context: Path, tmp_path: Path
) -> None:
    (context / "Dockerfile").write_text(STAGES)
    words = ["--build-arg", f"BASE={busybox}", "--build-arg", "WHO=you", "--secret"]
    words += [f"id=key,src={tmp_path}/key", "-t", "built:1"]
    done = built(node, context, *words, SOURCE_DATE_EPOCH="1700000000")
    assert done.returncode == 0, done.stderr
    ran = node.slipway("run", "--rm", "--network", "host", "built:1")
    assert ran.stdout == "hello you\n/work/sub\none\ntwo\n", ran.stderr
    files = node.slipway(
        "run", "--rm", "--network", "host", "--entrypoint", "find", "built:1", "/app", "/run", "-type", "f"
    )
    # `left.log` is left out, and of the mounts nothing stays
    assert sorted(files.stdout.split()) == ["/app/dir/kept", "/app/greeting", "/app/one", "/app/where"]
    saved = tmp_path / "built.tar"
    assert node.slipway("save", "-o", str(saved), "built:1").returncode == 0
    command = ["skopeo", "inspect", "--config", "--raw", f"oci-archive:{saved}"]
    read = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    inner = read["config"]
    assert (inner["User"], inner["Entrypoint"], inner["Labels"]["a b"]) == ("7:8", ["cat"], "c d")
    assert inner["Healthcheck"] == {"Test": ["CMD-SHELL", "true"], "Interval": 30 * 10**9, "Retries": 2}
    assert read["created"] == "2023-11-14T22:13:20Z"
    # the same again comes from the cache; without it, it is made anew and is the same
    again = built(node, context, *words, SOURCE_DATE_EPOCH="1700000000")
    assert (again.stdout, again.stderr.count("CACHED")) == (done.stdout, 5), again.stderr
    anew = built(node, context, *words, "--no-cache", SOURCE_DATE_EPOCH="1700000000")
    assert (anew.stdout, "CACHED" in anew.stderr) == (done.stdout, False), anew.stderr


def test_a_changed_file_is_copied_again_and_a_touched_one_is_not(
    node: TestNode, busybox: str, context: Path
) -> None:
    (context / "Dockerfile").write_text(f"FROM {busybox}\nCOPY dir /dir\nRUN cat /dir/kept > /copy\n")
    first = built(node, context, "-t", "changed:1")
    assert first.returncode == 0, first.stderr
    os.utime(context / "dir" / "kept", (1, 1))
    assert built(node, context).stdout == first.stdout
    (context / "dir" / "kept").write_text("other")
    second = built(node, context, "-t", "changed:1")
    assert "CACHED" not in second.stderr
    ran = node.slipway("run", "--rm", "--network", "host", "changed:1", "cat", "/copy")
    assert ran.stdout == "other"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("RUN exit 3", "Dockerfile:2: RUN: the command ended with exit code 3"),
        ("COPY nothing /", "Dockerfile:2: COPY: 'nothing': not found"),
        ("COPY dir/left.log /", "Dockerfile:2: COPY: 'dir/left.log': not found (.dockerignore"),
        ("COPY ../../../../etc/passwd /", "Dockerfile:2: COPY: '../../../../etc/passwd': not found"),
        ("COPY out /", "Dockerfile:2: COPY: 'out': not found"),
        ("COPY --from=BASE ../../../nosuch /", "Dockerfile:2: COPY: '../../../nosuch': not found"),
        ("EXPOSE no", "Dockerfile:2: EXPOSE: change 'EXPOSE no': 'no' is no port"),
        ('ENV A="${B:?must be given}"', "Dockerfile:2: ENV: B: must be given"),
        ("ONBUILD FROM x", "Dockerfile:2: ONBUILD: FROM: may not be in an ONBUILD"),
        ("RUN --mount=type=ssh true", "Dockerfile:2: RUN: --mount=type=ssh: ssh is not done here"),
        ("RUN --mount=type=bind,source=nosuch,target=/x true", "Dockerfile:2: RUN: 'nosuch': not found"),
        ("RUN --mount=from=BASE,source=/nosuch,target=/x true", "Dockerfile:2: RUN: nosuch: No such file"),
        ("ADD https://git.example/a.git /x", "a git repository is not fetched here"),
        ("ADD ftp://h.example/a /x", "want a URL of http or https"),
        ("ADD http://127.0.0.1:1/a /x", "Dockerfile:2: ADD: http://127.0.0.1:1/a: [Errno 111]"),
        ("ADD --checksum=sha256:aa http://127.0.0.1:1/a /x", "want sha256:<64 hex digits>, and one URL"),
        (f"ADD --checksum=sha256:{'0' * 64} http://127.0.0.1:1/a <<A /x/\nA", "and one URL"),
        (
            "FROM --platform=linux/s390x BASE",
            "Dockerfile:2: FROM: --platform=linux/s390x: images are made for",
        ),
        ("RUN --mount=type=odd,target=/x true", "type 'odd' is none of"),
        (
            "RUN --mount=target=/x,bind-propagation=shared true",  # CVE-2024-9407
            "'bind-propagation' is none of",
        ),
        ("RUN false\nRUNS echo", "Dockerfile:3: RUNS: no such instruction, perhaps RUN"),
        ("FOO bar", "Dockerfile:2: FOO: no such instruction\n"),
        ("ONBUILD ENVV a=b", "Dockerfile:2: ONBUILD: ENVV: no such instruction, perhaps ENV"),
    ],
)
def test_what_cannot_be_done_is_told_with_its_place_and_leaves_nothing(
    node: TestNode, busybox: str, context: Path, text: str, told: str
) -> None:
    (context / "out").symlink_to("/etc/hostname-of-the-node")
    (context / "Dockerfile").write_text(f"FROM {busybox}\n{text.replace('BASE', busybox)}\n")
    done = built(node, context)
    assert (done.returncode, told in done.stderr) == (1, True), done.stderr
    assert not any(node.leftovers().values()), node.leftovers()


def test_nothing_leads_out_of_the_context_or_the_root(
    node: TestNode, busybox: str, context: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").write_text("outside")
    (context / "file").write_text("inside")
    (context / "link").symlink_to("../outside")
    (context / "outside").write_text("of the context")
    lines = (f"FROM {busybox}", f"RUN ln -s {tmp_path} /away", "COPY link /read", "COPY file /away/written")
    (context / "Dockerfile").write_text("\n".join(lines))
    done = built(node, context, "-t", "held:1")
    # a link to what the root does not have leads nowhere, and nothing was written on the node
    assert (done.returncode, (tmp_path / "written").exists()) == (1, False), done.stderr
    (context / "Dockerfile").write_text("\n".join(lines[:3]))
    assert built(node, context, "-t", "held:1").returncode == 0
    ran = node.slipway("run", "--rm", "--network", "host", "held:1", "cat", "/read")
    assert ran.stdout == "of the context"


MOUNTS_OUT = """
FROM {base} AS evil
RUN mkdir -p {out} && echo inside > {out}/file && ln -s / /all && ln -s {out}/file /one
FROM {base}
RUN mkdir -p {out} && ln -s {out} /away
RUN --mount=from=evil,source=/all,target=/a,rw --mount=from=evil,source=/one,target=/b \\
    --mount=source=link,target=/c --mount=source=../../file,target=/d --mount=target=/e,rw \\
    --mount=type=cache,id=../../../../../..{out},target=/f \\
    --mount=type=cache,target=/away/cache --mount=type=tmpfs,target=/away/tmpfs \\
    cat /a{out}/file /b /c /d >/got && \\
    touch /a{out}/written /e/written /e/dir/written /f/written /away/cache/written /away/tmpfs/written
"""


def test_no_mount_of_a_command_leads_out_of_its_origin_or_keeps_what_is_written(
    node: TestNode, busybox: str, context: Path, tmp_path: Path
) -> None:
    """CVE-2024-1753, CVE-2024-9675, CVE-2025-4953."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "file").write_text("outside\n")
    (context / "link").symlink_to(out / "file")
    inside = context / str(out)[1:]
    inside.mkdir(parents=True)
    for path in (inside / "file", context / "file"):
        path.write_text("of the context\n")
    (context / "Dockerfile").write_text(MOUNTS_OUT.format(base=busybox, out=out))
    done = built(node, context, "-t", "mounts:1")
    assert done.returncode == 0, done.stderr
    ran = node.slipway("run", "--rm", "--network", "host", "mounts:1", "cat", "/got")
    assert ran.stdout == "inside\ninside\nof the context\nof the context\n", ran.stderr
    assert [path.name for path in out.iterdir()] == ["file"]
    assert not list(context.rglob("written"))


def test_an_image_from_nothing_has_an_unpacked_archive_and_a_heredoc(node: TestNode, context: Path) -> None:
    packed = ["tar", "-czf", str(context / "root.tgz"), "-C", "/bin", "busybox"]
    subprocess.run(packed, check=True, timeout=30)
    lines = ("FROM scratch", "ADD root.tgz /bin/", "COPY --chmod=0600 <<EOF /etc/note", "line", "EOF")
    (context / "Dockerfile").write_text("\n".join([*lines, "COPY d*r/k?pt /copied/", ""]))
    done = built(node, context, "-t", "nothing:1")
    assert done.returncode == 0, done.stderr
    words = ("/bin/busybox", "stat", "-c", "%a %n", "/etc/note", "/copied/kept")
    ran = node.slipway("run", "--rm", "--network", "host", "nothing:1", *words)
    assert ran.stdout == "600 /etc/note\n644 /copied/kept\n", ran.stderr


def test_add_unpacks_what_is_an_archive_and_copies_what_begins_with_zeros(
    node: TestNode, busybox: str, context: Path
) -> None:
    (context / "disk.img").write_bytes(bytes(4096) + b"data")
    plain = subprocess.run(["tar", "-c", "-C", str(context), "dir"], check=True, capture_output=True).stdout
    (context / "dir.tar.zst").write_bytes(zstandard.compress(plain))
    (context / "cut.tgz").write_bytes(gzip.compress(plain)[:-9])
    lines = (f"FROM {busybox}", "ADD disk.img /d/", "ADD disk.img /f/fs.ext4", "ADD dir.tar.zst /z/")
    (context / "Dockerfile").write_text("\n".join(lines))
    done = built(node, context, "-t", "unpacked:1")
    assert done.returncode == 0, done.stderr
    words = ("stat", "-c", "%s", "/d/disk.img", "/f/fs.ext4", "/z/dir/kept")
    assert node.slipway("run", "--rm", "--network", "host", "unpacked:1", *words).stdout == "4100\n4100\n4\n"
    (context / "Dockerfile").write_text("\n".join([*lines[:1], "ADD cut.tgz /"]))
    cut = built(node, context)
    told = "Dockerfile:2: ADD: 'cut.tgz': the archive is damaged: Compressed file ended"
    assert (cut.returncode, told in cut.stderr) == (1, True), cut.stderr


BINDS = """
FROM {base} AS made
RUN mkdir /deep && echo from-stage > /deep/file && ln -s deep/file /link

FROM {base}
RUN --mount=type=bind,target=/src cat /src/dir/kept > /kept && ls -a /src/dir > /listed && ! touch /src/x
RUN --mount=from=made,source=/link,target=/one --mount=from=made,source=deep,dst=/two,rw \\
    cat /one > /linked && echo more >> /two/file && cat /two/file > /both
RUN --mount=src=dir/kept,target=/single,readonly cat /single > /alone
COPY --from=made /deep/file /unchanged
"""


def test_bind_mounts_show_the_context_and_stages_and_keep_nothing(
    node: TestNode, busybox: str, context: Path
) -> None:
    (context / "dir" / "kept").write_text("kept\n")
    (context / "Dockerfile").write_text(BINDS.format(base=busybox))
    done = built(node, context, "-t", "bound:1")
    assert done.returncode == 0, done.stderr
    files = ("/kept", "/listed", "/linked", "/both", "/alone", "/unchanged")
    ran = node.slipway("run", "--rm", "--network", "host", "bound:1", "cat", *files)
    assert ran.stdout.split() == [
        *("kept", ".", "..", "kept", "from-stage", "from-stage", "more", "kept", "from-stage"),
    ], ran.stderr
    # what was made to mount on is in no layer
    there = node.slipway("run", "--rm", "--network", "host", "bound:1", "ls", "/")
    assert not {"src", "one", "two", "single", "bound"} & set(there.stdout.split())
    assert (context / "dir" / "kept").read_text() == "kept\n"
    (context / "dir" / "other").write_text("of which one mount knows nothing")
    again = built(node, context, "-t", "bound:1")
    # the stage and the mount of the file are the same, what saw the whole context is not
    assert again.stderr.count("CACHED") == 1, again.stderr
    assert not any(node.leftovers().values()), node.leftovers()


class Web(NamedTuple):
    """A web server on loopback."""

    served: Path
    address: str
    asked: list[str]


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    served = tmp_path / "served"
    served.mkdir()
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(
            self, request: socket.socket, client_address: tuple[str, int], server: ThreadingHTTPServer
        ) -> None:
            super().__init__(request, client_address, server, directory=str(served))

        def log_message(self, *words: object) -> None:
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Web(served, f"http://127.0.0.1:{server.server_port}", asked)
        server.shutdown()
        thread.join()


def test_a_url_is_added_as_it_is_and_by_its_checksum(
    node: TestNode, busybox: str, context: Path, web: Web
) -> None:
    served, address, asked = web
    packed = ["tar", "-czf", str(served / "a%20file.tgz"), "-C", str(context), "dir"]
    subprocess.run(packed, check=True, timeout=30)
    body = (served / "a%20file.tgz").read_bytes()
    url = f"{address}/a%2520file.tgz"
    checksum = f"sha256:{hashlib.sha256(body).hexdigest()}"
    text = f"FROM {busybox}\nADD {url} /into/\nADD --checksum={checksum} --chmod=0644 {url} /named\n"
    (context / "Dockerfile").write_text(text)
    done = built(node, context, "-t", "added:1")
    assert done.returncode == 0, done.stderr
    words = ("run", "--rm", "--network", "host", "added:1")
    sums = node.slipway(*words, "sha256sum", "/into/a%20file.tgz", "/named").stdout.split()
    assert sums[::2] == [checksum.removeprefix("sha256:")] * 2
    modes = node.slipway(*words, "stat", "-c", "%a", "/into/a%20file.tgz", "/named")
    assert modes.stdout.split() == ["600", "644"]
    asked.clear()
    again = built(node, context, "-t", "added:1")
    # what its checksum names is not fetched again
    assert (again.stdout, again.stderr.count("CACHED"), len(asked)) == (done.stdout, 2, 1), again.stderr
    (context / "Dockerfile").write_text(text.replace(checksum, "sha256:" + "0" * 64))
    wrong = built(node, context)
    assert (wrong.returncode, f"it has the checksum {checksum}, not" in wrong.stderr) == (1, True)
    missing = text.replace("a%2520file", "missing")
    (context / "Dockerfile").write_text(missing)
    assert "the server answered 404" in built(node, context).stderr


def test_onbuild_is_done_by_the_first_that_builds_on_it_only(
    node: TestNode, busybox: str, context: Path
) -> None:
    (context / "Dockerfile").write_text(
        f"FROM {busybox}\nONBUILD ARG NAME=nobody\nONBUILD COPY dir /dir\nONBUILD RUN echo $NAME > /name\n"
    )
    assert built(node, context, "-t", "parent:1").returncode == 0
    parent = json.loads(node.slipway("image", "inspect", "parent:1").stdout)[0]
    assert parent["Config"]["OnBuild"] == ["ARG NAME=nobody", "COPY dir /dir", "RUN echo $NAME > /name"]
    (context / "Dockerfile").write_text("FROM parent:1\nRUN cat /name /dir/kept > /both\n")
    done = built(node, context, "-t", "child:1", "--build-arg", "NAME=you")
    assert done.returncode == 0, done.stderr
    assert node.slipway("run", "--rm", "--network", "host", "child:1", "cat", "/both").stdout == "you\nkept"
    child = json.loads(node.slipway("image", "inspect", "child:1").stdout)[0]
    assert not child["Config"].get("OnBuild")
    (context / "Dockerfile").write_text("FROM parent:1\nONBUILD RUN false\n")
    assert built(node, context, "-t", "bad:1").returncode == 0
    (context / "Dockerfile").write_text("FROM bad:1\n")
    bad = built(node, context)
    assert "Dockerfile:1: ONBUILD: RUN: the command ended with exit code 1" in bad.stderr


def test_platforms_that_are_this_machines_are_told_to_the_dockerfile(
    node: TestNode, busybox: str, context: Path
) -> None:
    lines = (
        f"FROM --platform=$BUILDPLATFORM {busybox}",
        "ARG TARGETPLATFORM TARGETARCH",
        "RUN echo $TARGETPLATFORM $TARGETARCH > /for",
    )
    (context / "Dockerfile").write_text("\n".join(lines))
    assert built(node, context, "-t", "for:1").returncode == 0
    ran = node.slipway("run", "--rm", "--network", "host", "for:1", "cat", "/for")
    architecture = platform.own()[1]
    assert ran.stdout == f"linux/{architecture} {architecture}\n"
    refused = built(node, context, "--platform", "linux/s390x")
    assert (refused.returncode, "--platform=linux/s390x: images are made for" in refused.stderr) == (1, True)


def test_a_cache_of_builds_is_counted_and_pruned_but_not_under_a_build(
    node: TestNode, busybox: str, context: Path
) -> None:
    def row() -> dict[str, Any]:
        rows = json.loads(node.slipway("system", "df", "-o", "json").stdout)
        return next(kind for kind in rows if kind["name"] == "Build caches")

    node.slipway("prune", "-f")
    assert row()["total"] == 0
    (context / "Dockerfile").write_text(
        f"FROM {busybox}\nRUN --mount=type=cache,id=big,target=/c dd if=/dev/zero of=/c/f bs=1M count=3"
        " && touch /c/ready && until [ -e /c/go ]; do sleep 0.05; done\n"
    )
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(built, node, context, "--no-cache")
        cache = node.data_dir / "build-cache"
        eventually(lambda: list(cache.glob("*/ready")), within_s=30, what="the command")
        (there,) = cache.glob("*/ready")
        assert (row()["active"], row()["reclaimable_bytes"]) == (1, 0)
        assert "build cache" not in node.slipway("prune", "-f").stdout
        (there.parent / "go").touch()
        assert running.result().returncode == 0
    counted = row()
    assert (counted["total"], counted["active"]) == (2, 0)  # the mount, and the image of the step
    assert counted["reclaimable_bytes"] >= 3 << 20
    assert "build cache" not in node.slipway("prune", "-f", "--filter", "until=1h").stdout
    assert "Would remove build cache: big, last used" in node.slipway("prune", "-n").stdout
    done = node.slipway("prune", "-f")
    assert "Removed build cache: big" in done.stdout
    assert "Removed cached steps of builds: 1\n" in done.stdout
    assert (row()["total"], list(cache.glob("*/ready"))) == (0, [])


def test_what_a_running_build_made_is_not_pruned(
    node: TestNode, busybox: str, context: Path, tmp_path: Path
) -> None:
    (context / "Dockerfile").write_text(
        f"FROM {busybox} AS one\nCOPY dir/kept /one\nLABEL made=one\n"
        f"FROM {busybox}\nRUN --mount=type=cache,id={tmp_path},target=/c"
        " touch /c/begun && until [ -e /c/go ]; do sleep 0.05; done\nCOPY --from=one /one /\n"
    )
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(built, node, context, "--no-cache", "-t", "held:2", "--progress", "plain")
        (begun,) = eventually(
            lambda: list((node.data_dir / "build-cache").glob("*/begun")), within_s=30, what="the command"
        )

        def held() -> set[str]:
            ids = node.slipway("images", "-aq", "--no-trunc").stdout.split()
            told = json.loads(node.slipway("image", "inspect", *dict.fromkeys(ids)).stdout)
            return {each["Id"] for each in told if any(n.startswith("build-") for n in each["Leases"])}

        # the base, the copy, and its label
        ids = eventually(lambda: held() if len(held()) == 3 else set(), within_s=30, what="the other stage")
        pruned = node.slipway("prune", "-af", "-o", "json")
        gone = {v["id"] for v in json.loads(pruned.stdout) if v.get("goes")}
        (begun.parent / "go").touch()
        done = running.result()
    assert (done.returncode, gone & ids) == (0, set()), done.stderr
    assert held() == set()
    ran = node.slipway("run", "--rm", "--network", "host", "held:2", "cat", "/one")
    assert ran.stdout == "kept"


def test_commands_wait_for_each_others_locked_caches(node: TestNode, busybox: str, context: Path) -> None:
    mounts = [f"--mount=type=cache,id={name},target=/{name},sharing=locked" for name in ("a", "b")]
    both = "test ! -e /a/held && touch /a/held && sleep 0.3 && rm /a/held && touch /{0}"
    (context / "Dockerfile").write_text(
        f"FROM {busybox} AS one\nRUN {' '.join(mounts)} {both.format('one')}\n"
        f"FROM {busybox} AS two\nRUN {' '.join(reversed(mounts))} {both.format('two')}\n"
        f"FROM {busybox}\nCOPY --from=one /one /\nCOPY --from=two /two /\n"
    )
    done = built(node, context, "--no-cache")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def waiting(
    node: TestNode, busybox: str, context: Path, tmp_path: Path
) -> "Iterator[subprocess.Popen[bytes]]":
    """A build whose command waits, with a secret, for ever; killed at the end of the test."""
    (context / "Dockerfile").write_text(
        f"FROM {busybox}\nRUN --mount=type=secret,id=key --mount=type=cache,id={tmp_path},target=/c"
        " touch /c/waits && sleep 1000\n"
    )
    command = [str(Path(sys.executable).parent / "slipway"), "--run-dir", str(node.run_dir), "build", "-q"]
    command += ["--network", "host", "--secret", f"id=key,src={tmp_path}/key", str(context)]
    with subprocess.Popen(command) as running:
        eventually(
            lambda: list((node.data_dir / "build-cache").glob("*/waits")), within_s=30, what="the command"
        )
        yield running
        running.kill()
    node.slipway("prune", "-f")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_build_that_is_told_to_end_leaves_nothing(
    node: TestNode, waiting: "subprocess.Popen[bytes]", number: signal.Signals
) -> None:
    waiting.send_signal(number)
    assert waiting.wait(60) == 128 + number
    assert not any(node.leftovers().values()), node.leftovers()
    assert list(node.run_dir.glob("*build-*")) == []


def test_what_a_killed_build_left_goes_with_prune(node: TestNode, waiting: "subprocess.Popen[bytes]") -> None:
    secrets = list(node.run_dir.glob("build-*/*/0"))
    assert [path.read_text() for path in secrets] == ["secret"]
    assert "build:" not in node.slipway("prune", "-n").stdout  # which goes on
    waiting.kill()
    waiting.wait(60)
    assert "Would remove left of a build: " in node.slipway("prune", "-n").stdout
    assert "left of a build" not in node.slipway("prune", "-f", "--filter", "until=1h").stdout
    assert "Removed left of a build: " in node.slipway("prune", "-f").stdout
    assert not any(node.leftovers().values()), node.leftovers()
    assert list(node.run_dir.glob("*build-*")) == []


def test_stages_that_need_each_other_not_are_built_at_the_same_time(
    node: TestNode, busybox: str, context: Path
) -> None:
    meet = "RUN --mount=type=cache,id=meet,target=/c touch /c/{0} /{0} && until [ -e /c/{1} ]; do sleep 0.05; done"
    lines = (
        *(f"FROM {busybox} AS one", meet.format("one", "two")),
        *(f"FROM {busybox} AS two", meet.format("two", "one")),
        *(f"FROM {busybox} AS unneeded", "RUN false"),
        *(f"FROM {busybox}", "COPY --from=one /one /", "COPY --from=two /two /"),
    )
    (context / "Dockerfile").write_text("\n".join(lines))
    done = built(node, context, "-t", "both:1", "--no-cache")
    assert done.returncode == 0, done.stderr
    ran = node.slipway("run", "--rm", "--network", "host", "both:1", "ls", "/one", "/two")
    assert ran.stdout == "/one\n/two\n", ran.stderr
    # one that fails ends the other, which would wait for ever
    (context / "Dockerfile").write_text("\n".join(lines).replace("touch /c/one /one", "rm -f /c/* && false"))
    failed = built(node, context, "--no-cache")
    assert (failed.returncode, "Dockerfile:2: RUN: the command ended with" in failed.stderr) == (1, True)
    assert not any(node.leftovers().values()), node.leftovers()


@pytest.mark.parametrize(("last", "code"), [("true", 0), ("sh -c 'echo why; exit 3'", 1)])
def test_a_terminal_has_one_line_a_step_that_is_redrawn(
    node: TestNode, busybox: str, context: Path, last: str, code: int
) -> None:
    (context / "Dockerfile").write_text(f"FROM {busybox}\nRUN echo going; sleep 1\nRUN {last}\n")
    words = [
        "slipway",
        "--run-dir",
        str(node.run_dir),
        "build",
        "--no-cache",
        "--network",
        "host",
        str(context),
    ]
    words[0] = str(Path(sys.executable).parent / "slipway")
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "24"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=theirs, env=environment) as running:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # how a terminal ends
            while piece := os.read(ours, 1 << 16):
                shown += piece
        assert running.wait(60) == code, shown.decode()[-3000:]
    os.close(ours)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    drawn = [screen for screen in plain.split("[+] Building ") if "=> [stage-0 2/3] RUN echo going" in screen]
    # while it runs its output stands below it; afterwards it does not
    assert any("=> => # " in screen and "going" in screen.split("=> => # ")[1] for screen in drawn)
    assert "=> => # " not in drawn[-1]
    assert re.search(r"=> \[stage-0 2/3\] RUN echo going; sleep 1 +[1-9][0-9.]*s", drawn[-1])
    if code:
        assert "ERROR [stage-0 3/3]" in drawn[-1]
        assert re.search(r"> \[stage-0 3/3\] .*:\r\n[0-9.]+ why\r\n------", drawn[-1])
    else:
        assert "FINISHED" in plain
