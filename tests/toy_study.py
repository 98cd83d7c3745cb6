"""A study in a few lines, on the engine, for tests of the engine; importable by other processes.

Run as a program, `python toy_study.py OUTPUT FOLDER PROCESSES`, it measures the cases of a folder, slowly.
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from seganypet.study.engine import Study, run_study
from seganypet.study.progress import tell


@dataclass(frozen=True)
class Above:
    """A method: counts the bytes of a file that are above a level."""

    level: int
    weights: str | None = None

    @property
    def name(self) -> str:
        return f"above {self.level}"

    @property
    def identity(self) -> str:
        return f"weights {self.weights}"


def measure(case, methods, settings):
    if case.scan.read_bytes() == b"fails":
        raise OSError("disk gone,\nor\nso")
    for method in methods:
        tell(method.name)
        time.sleep(float(os.environ.get("TOY_SECONDS", 0)))
        if "TOY_LOG" in os.environ:
            with Path(os.environ["TOY_LOG"]).open("a") as log:
                log.write(f"{case.name}, {method.name}\n")
        found = [byte for byte in case.scan.read_bytes() if byte > method.level]
        yield method.name, [{"rank": n, "third": byte / 3} for n, byte in enumerate(sorted(found), settings["start"])]


def count_bytes(cases, levels=(50, 100), start=1, weights=None, **options) -> pd.DataFrame:
    columns = {"rank": int, "third": float, "weights": str}
    methods = [Above(level, weights) for level in levels]
    study = Study("count bytes", columns, {"start": start}, measure, methods)
    return run_study(study, cases, **{"progress": False} | options)


@dataclass(frozen=True)
class ByteCase:
    """A case whose scan is a small file."""

    name: str
    patient: str
    scan: Path


def byte_cases(folder: Path, names: str = "abcd") -> list[ByteCase]:
    """Cases with files of their own in a folder, made if they are missing."""
    for name in names:
        if not (folder / name).exists():
            (folder / name).write_bytes(bytes((7 * n * (ord(name) - 90)) % 150 for n in range(12)))
    return [ByteCase(name, f"patient {name}", folder / name) for name in names]


if __name__ == "__main__":
    count_bytes(byte_cases(Path(sys.argv[2])), output=sys.argv[1], processes=int(sys.argv[3]))
