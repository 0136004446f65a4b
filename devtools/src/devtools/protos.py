"""Generates the gRPC code beside its protos; `--check` fails when what is committed has drifted."""

import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

SOURCE = Path(__file__).parents[3] / "libs" / "common" / "src"
OUTPUTS = ("--python_out", "--grpc_python_out", "--mypy_out", "--mypy_grpc_out")


def generate(into: Path) -> list[Path]:
    """Run the compiler over every proto; returns the files made, relative to `into`."""
    protos = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.proto"))
    plugins = [
        f"--plugin=protoc-gen-{name}={Path(sys.executable).parent}/protoc-gen-{name}"
        for name in ("mypy", "mypy_grpc")
    ]
    outputs = [f"{option}=quiet:{into}" if "mypy" in option else f"{option}={into}" for option in OUTPUTS]
    if protoc.main(["protoc", f"-I{SOURCE}", *plugins, *outputs, *map(str, protos)]) != 0:
        sys.exit("protoc failed: see above")
    return sorted(path.relative_to(into) for path in into.rglob("*_pb2*") if path.suffix in (".py", ".pyi"))


def main() -> None:
    """Generate, or check."""
    with tempfile.TemporaryDirectory() as directory:
        made = generate(Path(directory))
        drifted = [
            p
            for p in made
            if not (SOURCE / p).exists() or not filecmp.cmp(SOURCE / p, Path(directory, p), shallow=False)
        ]
        if "--check" in sys.argv:
            if drifted:
                sys.exit(f"drifted from their protos: {', '.join(map(str, drifted))}: run ./dev protos")
            return
        for path in drifted:
            shutil.copyfile(Path(directory, path), SOURCE / path)


if __name__ == "__main__":
    main()
