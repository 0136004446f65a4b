"""What a program's file is, by its first bytes."""

from dataclasses import dataclass

HEAD_BYTES = 256
_ELF = b"\x7fELF"
_MACHINES = {
    0x03: "i686",
    0x08: "mips",
    0x14: "ppc",
    0x15: "ppc64",
    0x16: "s390x",
    0x28: "armv7l",
    0x3E: "x86_64",
    0xB7: "aarch64",
    0xF3: "riscv64",
    0x102: "loongarch64",
}
"""Values of e_machine (linux/elf-em.h) as uname names them."""
_BIG_ENDIAN = 2
_SHOWN = 60


@dataclass(frozen=True)
class Program:
    """A file that was to be run."""

    machine: str = ""
    """The processor that an ELF file is for; empty for other files."""
    interpreter: str = ""
    """What the #! line of a script says; empty without one."""


def of_head(head: bytes) -> Program:
    """The program whose file begins so."""
    if head.startswith(_ELF) and len(head) >= 20:
        number = int.from_bytes(head[18:20], "big" if head[5] == _BIG_ENDIAN else "little")
        return Program(machine=_MACHINES.get(number, f"machine {number:#x}"))
    if head.startswith(b"#!"):
        line = head[2:].partition(b"\n")[0].decode(errors="replace").strip()
        return Program(interpreter=line[:_SHOWN])
    return Program()
