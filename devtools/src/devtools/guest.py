"""`./dev guest COMMAND…`: run a command in an emulated Debian with systemd and pure cgroup v2, on this checkout.

The machine has no network. Its root image is made once and cached; the checkout and its venv are a second disk,
at the same path as here. Changes to either end with the machine. A command that ends with status 194 has the machine
boot again, and is run again.
"""

import argparse
import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE = Path("/var/cache/slipway-guest")
SUITE = "bookworm"
SYSTEM = ("systemd-sysv", "dbus", "udev", "kmod", "linux-image-cloud-amd64")
SLOWNESS = 10
"""Emulation is about this many times slower than the machine that emulates."""
MEMORY = "4G"
CPU = "Nehalem-v1"
"""Without AVX, which takes longer to emulate than libraries win by it."""
KERNEL = "mitigations=off init_on_alloc=0 audit=0"
"""What guards against neighbours, of which there are none; with the processor a fifth of a test's time."""
ROOT_SIZE, SPARE_BYTES = "6G", 2 << 30
UNIT = """[Unit]
Description=The command of this boot
After=multi-user.target
[Service]
ExecStart=/bin/sh /usr/local/lib/guest-command
StandardOutput=null
[Install]
WantedBy=multi-user.target
"""
COMMAND = """exec >/dev/virtio-ports/output 2>&1 </dev/null
if [ -e /var/lib/guest-ran ]; then
  echo "the machine booted again by itself"
  status=1
else
  touch /var/lib/guest-ran
  bash -c "$(tr -d '\\0' </dev/disk/by-id/virtio-command)"
  status=$?
fi
if [ $status = 194 ]; then
  rm /var/lib/guest-ran
  exec systemctl reboot
fi
echo $status >/dev/virtio-ports/status
systemctl poweroff
"""
WHEELS = ".wheels"


def parser() -> argparse.ArgumentParser:
    """The command's own options; what follows them is for the machine."""
    made = argparse.ArgumentParser(prog="./dev guest", description=__doc__.split("\n", 1)[0])
    made.add_argument("--packages", default="", help="Debian packages of the image, comma separated")
    made.add_argument("--timeout-s", type=int, default=3600)
    made.add_argument("--wheels", action="store_true", help="have pip find there what the lock pins")
    made.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    return made


def main() -> None:
    """Boot, run the command, and end with its status."""
    arguments = parser().parse_args()
    if not arguments.command:
        parser().error("say what to run, as in: ./dev guest uname -a")
    try:
        with making():
            image = root_image((*SYSTEM, *filter(None, arguments.packages.split(","))))
            wheels = locked_wheels() if arguments.wheels else None
        sys.exit(run(image, arguments.command, arguments.timeout_s, wheels))
    except (OSError, subprocess.SubprocessError) as exc:
        sys.exit(f"guest: {exc}")


@contextmanager
def making() -> Iterator[None]:
    """What is in the cache is made by one at a time."""
    CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def root_image(packages: tuple[str, ...]) -> Path:
    """The folder with `root.img`, `vmlinuz` and `initrd` of a machine with these packages; made when missing."""
    recipe = "\n".join((SUITE, *sorted(packages), ROOT_SIZE, UNIT, COMMAND))
    image = CACHE / hashlib.sha256(recipe.encode()).hexdigest()[:16]
    if image.is_dir():
        return image
    sys.stderr.write(f"making the image of the guest in {CACHE} (once)\n")
    with tempfile.TemporaryDirectory(dir=CACHE) as made:
        root, ready = Path(made, "root"), Path(made, "ready")
        ready.mkdir()
        _call(
            "mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}", SUITE, str(root)
        )
        (root / "usr/local/lib/guest-command").write_text(COMMAND)
        (root / "etc/systemd/system/guest-command.service").write_text(UNIT)
        _call("systemctl", f"--root={root}", "enable", "--quiet", "guest-command.service")
        for name in ("redis-server", "docker-registry"):  # tests and nodes start their own
            if (root / f"lib/systemd/system/{name}.service").exists():
                _call("systemctl", f"--root={root}", "mask", "--quiet", name)
        for name in ("vmlinuz", "initrd.img"):
            shutil.copy(root / name, ready / name)
        _disk(ready / "root.img", root, ROOT_SIZE)
        ready.rename(image)
    return image


def locked_wheels() -> Path:
    """The folder with what requirements.lock pins, downloaded when missing."""
    lock = Path("requirements.lock")
    wheels = CACHE / f"wheels-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}"
    if not wheels.is_dir():
        with tempfile.TemporaryDirectory(dir=CACHE) as made:
            ready = Path(made, "ready")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
            _call(*command, "--require-hashes", "-r", str(lock), "-d", str(ready))
            ready.rename(wheels)
    return wheels


def run(image: Path, command: list[str], timeout_s: int, wheels: Path | None = None) -> int:
    """Boot, run the command with its output on ours; its exit status, 1 when the machine ended without one.

    Raises:
        subprocess.TimeoutExpired: it was not done in time; the machine is gone.
    """
    with furnished(wheels) as place:
        order(place, command)
        subprocess.run(qemu(image, place), timeout=timeout_s, check=True, stdin=subprocess.DEVNULL)
        status = (place / "status").read_text().strip()
        if not status:
            sys.stderr.write("".join((place / "console").read_text(errors="replace").splitlines(True)[-20:]))
        return int(status or 1)


@contextmanager
def furnished(wheels: Path | None = None) -> Iterator[Path]:
    """A folder with what a machine needs besides its root: the checkout's disk. `order` gives it a command."""
    with tempfile.TemporaryDirectory(prefix="slipway-guest-") as made, _checkout() as checkout:
        place = Path(made)
        if wheels:
            shutil.copytree(wheels, checkout / WHEELS)
        _disk(place / "checkout.img", checkout, str(_size(checkout) + SPARE_BYTES >> 10) + "k")
        yield place


def order(place: Path, command: list[str]) -> None:
    """What the next machine of this folder is to run."""
    (place / "status").write_text("")
    (place / "command").write_text(_script(command))
    os.truncate(place / "command", 64 << 10)


def _script(command: list[str]) -> str:
    here = shlex.quote(str(Path.cwd()))
    return (
        f"mkdir -p {here} && mount LABEL=checkout {here} && cd {here} || exit 1\n"
        f"export HOME=/root PATH=$PATH:/usr/sbin:/sbin SLIPWAY_TEST_SLOWNESS={SLOWNESS} SLIPWAY_GUEST=1\n"
        f"if [ -d {WHEELS} ]; then export PIP_NO_INDEX=1 PIP_FIND_LINKS={here}/{WHEELS}; fi\n"
        f"{shlex.join(command)}\n"
    )


def qemu(image: Path, place: Path, output: str = "/dev/stdout", kept: Path | None = None) -> list[str]:
    """The command line of a machine.

    Args:
        image: from `root_image`.
        place: from `furnished`, with an order.
        output: where its output goes.
        kept: the only disk to which writes stay, when there is one.
    """
    disks = {"root": image / "root.img", "checkout": place / "checkout.img", "command": place / "command"}
    command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", "2", "-m", MEMORY]
    command += [
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-nic",
        "none",
    ]
    command += ["-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.img")]
    command += ["-append", f"root=LABEL=root rw console=ttyS0 quiet panic=-1 {KERNEL}"]
    command += [
        "-serial",
        f"file:{place}/console",
        "-device",
        "virtio-rng-pci",
        "-device",
        "virtio-serial-pci",
    ]
    for name, path in disks.items():
        command += _drive(name, f"file={path},snapshot=on,cache=unsafe")
    if kept:
        command += _drive("kept", f"file={kept},cache=writeback")
    command += [
        "-chardev",
        f"file,id=output,path={output},append=on",
        "-device",
        "virtserialport,chardev=output,name=output",
    ]
    command += ["-chardev", f"file,id=status,path={place}/status"]
    return [*command, "-device", "virtserialport,chardev=status,name=status"]


def _drive(name: str, options: str) -> list[str]:
    drive = f"id={name},format=raw,if=none,{options}"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive={name},serial={name}"]


@contextmanager
def _checkout() -> Iterator[Path]:
    """A copy of the files that git knows or would add, and of the venv."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
    )
    with tempfile.TemporaryDirectory(prefix="slipway-guest-") as made:
        present = [name for name in listed.stdout.split(b"\0") if name and os.path.lexists(name)]
        subprocess.run(
            ["xargs", "-0", "cp", "-a", "--parents", "-t", made], input=b"\0".join(present), check=True
        )
        _call("cp", "-a", ".venv", made)
        yield Path(made)


def _size(directory: Path) -> int:
    return int(subprocess.run(["du", "-sb", directory], capture_output=True, check=True).stdout.split()[0])


def _disk(path: Path, content: Path, size: str) -> None:
    path.touch()  # mke2fs would tell that it made the file
    label = "root" if content.name == "root" else "checkout"
    _call(
        "mke2fs", "-q", "-t", "ext4", "-L", label, "-d", str(content), "-O", "^has_journal", str(path), size
    )


def _call(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
