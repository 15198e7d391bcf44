"""Where a run comes from: code, packages, machine."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

_PACKAGES = ("tnt-exp", "keras", "tensorflow", "jax", "torch", "mlflow", "hydra-core", "omegaconf", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, those that are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git(folder: Path | None = None) -> dict[str, str]:
    """`git_commit` and `git_dirty` (true or false) of the working folder's checkout; empty outside of one."""

    def ask(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {
            "git_commit": ask("rev-parse", "HEAD"),
            "git_dirty": str(bool(ask("status", "--porcelain", "--untracked-files=no"))).lower(),
        }
    except (OSError, subprocess.SubprocessError):
        return {}
