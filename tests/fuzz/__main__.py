"""`./dev fuzz [TARGET…] [--seconds N] [--seed N] [--corpus DIRECTORY]`: each target for a time, in a process of its own.

What reaches new code stays in the corpus, and is where the next run begins. What is found is told, with the file that has it.
"""

import argparse
import subprocess
import sys
from pathlib import Path

INSTRUMENTED = ["common", "imaged"]
MAX_BYTES = 8192
_ONE = "--one"


def main() -> int:
    if sys.argv[1:2] == [_ONE]:
        fuzz(sys.argv[2], sys.argv[3:])
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="./dev fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--seed", type=int, default=0, help="of its dice; 0: another one each time")
    parser.add_argument("--corpus", type=Path, default=Path("/var/tmp/slipway-fuzz"), help="%(default)s")
    given = parser.parse_args()
    if unknown := set(given.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; known are {', '.join(TARGETS)}")
    bad = [name for name in given.targets or TARGETS if not ran(name, given)]
    print(f"found something: {', '.join(bad)}" if bad else "nothing found")  # noqa: T201
    return 1 if bad else 0


def ran(name: str, given: argparse.Namespace) -> bool:
    """Fuzz one target; whether it stood."""
    from tests.fuzz.targets import TARGETS

    corpus = given.corpus / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name][1]):
        (corpus / f"seed-{number}").write_bytes(seed)
    print(f"== {name}", flush=True)  # noqa: T201
    options = [f"-max_total_time={given.seconds}", f"-seed={given.seed}", f"-max_len={MAX_BYTES}"]
    options += [f"-artifact_prefix={given.corpus}/{name}-", "-rss_limit_mb=1024", "-timeout=10"]
    options += ["-print_final_stats=1", "-verbosity=0", str(corpus)]
    return (
        subprocess.run([sys.executable, "-m", "tests.fuzz", _ONE, name, *options], check=False).returncode
        == 0
    )


def fuzz(name: str, options: list[str]) -> None:
    """The process of one target; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.targets import TARGETS
    atheris.Setup([name, *options], TARGETS[name][0])
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
