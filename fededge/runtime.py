"""Says what computes here, for reports: bits are promised for one image, instruction set and thread count."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata
from pathlib import Path

from fededge import __version__
from fededge.records import Digest, Runtime, digest_of

_VECTOR_SETS = ("avx2", "avx512f", "fma", "asimd", "sve")


@cache
def describe_runtime(libraries: tuple[str, ...], threads: int) -> Runtime:
    """Describe this process.

    Args:
      libraries: the distributions whose arithmetic decides the result.
      threads: how many threads an operation may use.
    """
    return Runtime(
        fededge=__version__,
        python=platform.python_version(),
        machine=platform.machine(),
        cpu_features=" ".join(f for f in _VECTOR_SETS if f in _cpu_flags()),
        threads=threads,
        libraries={name: metadata.version(name) for name in libraries},
        packages=_packages(),
    )


@cache
def _packages() -> Digest:
    """Digest the packages of this environment or image, but for FedEdge, which tells its own version."""
    found = {f"{item.metadata['Name'].lower()}=={item.version}" for item in metadata.distributions()}
    return digest_of("\n".join(sorted(name for name in found if not name.startswith("fededge=="))).encode())


def _cpu_flags() -> set[str]:
    """Read the instruction sets of this CPU; empty where the system does not tell."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return set()
    lines = path.read_text().splitlines()
    return set(next((ln for ln in lines if ln.lower().startswith(("flags", "features"))), "").split())
