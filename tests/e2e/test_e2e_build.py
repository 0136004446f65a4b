"""Images built from Dockerfiles by the slipway command, on a real node."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def built(node, context: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
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
    node, busybox, context: Path, tmp_path: Path
) -> None:
    (context / "Dockerfile").write_text(STAGES)
    words = ("--build-arg", f"BASE={busybox}", "--build-arg", "WHO=you", "--secret")
    words += (f"id=key,src={tmp_path}/key", "-t", "built:1")
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


def test_a_changed_file_is_copied_again_and_a_touched_one_is_not(node, busybox, context: Path) -> None:
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
        ("ONBUILD RUN x", "Dockerfile:2: ONBUILD: is not done here"),
        ("RUN --mount=type=odd,target=/x true", "type 'odd' is none of"),
        ("FOO bar", "FOO"),
    ],
)
def test_what_cannot_be_done_is_told_with_its_place_and_leaves_nothing(
    node, busybox, context: Path, text: str, told: str
) -> None:
    (context / "out").symlink_to("/etc/hostname-of-the-node")
    (context / "Dockerfile").write_text(f"FROM {busybox}\n{text.replace('BASE', busybox)}\n")
    done = built(node, context)
    assert (done.returncode, told in done.stderr) == (1, True), done.stderr
    assert not any(node.leftovers().values()), node.leftovers()


def test_nothing_leads_out_of_the_context_or_the_root(node, busybox, context: Path, tmp_path: Path) -> None:
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


def test_an_image_from_nothing_has_an_unpacked_archive_and_a_heredoc(node, context: Path) -> None:
    packed = ["tar", "-czf", str(context / "root.tgz"), "-C", "/bin", "busybox"]
    subprocess.run(packed, check=True, timeout=30)
    lines = ("FROM scratch", "ADD root.tgz /bin/", "COPY --chmod=0600 <<EOF /etc/note", "line", "EOF")
    (context / "Dockerfile").write_text("\n".join([*lines, "COPY d*r/k?pt /copied/", ""]))
    done = built(node, context, "-t", "nothing:1")
    assert done.returncode == 0, done.stderr
    words = ("/bin/busybox", "stat", "-c", "%a %n", "/etc/note", "/copied/kept")
    ran = node.slipway("run", "--rm", "--network", "host", "nothing:1", *words)
    assert ran.stdout == "600 /etc/note\n644 /copied/kept\n", ran.stderr
