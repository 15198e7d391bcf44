"""Unpack what `python -m benchmarks.gpu pack` wrote. Needs nothing but Python: it travels beside the archives.

    python unpack.py FOLDER --to FOLDER          archives of FOLDER, verified, laid out and installed

Archives may come one at a time: each call takes those that are there and says which are missing.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

MANIFEST = "manifest.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify, lay out, install. 0: it can be run; 1: archives are missing, or installing failed; 2: damaged input."""
    parser = argparse.ArgumentParser(prog="unpack", description="Unpack what `pack` wrote, hashes verified.")
    parser.add_argument("folder", type=Path, help=f"with {MANIFEST} and archives")
    parser.add_argument("--to", type=Path, required=True, help="folder for source/, wheels/, data/ and site/")
    options = parser.parse_args(arguments)
    target = options.to.resolve()
    try:
        manifest = read_manifest(options.folder / MANIFEST)
        for name, digest in manifest["archives"].items():
            if (options.folder / name).exists():
                lay_out(options.folder / name, digest, manifest, target)
        absent = list(missing(manifest, target))
    except ValueError as error:
        print(f"unpack: {error}", file=sys.stderr)
        return 2
    if absent:
        needed = sorted(
            {
                part["archive"]
                for entry in absent
                for number, part in enumerate(entry["parts"], start=1)
                if not _part(target, entry, number).exists()
            }
        )
        names = ", ".join(entry["path"] for entry in absent[:3]) + (", ..." if len(absent) > 3 else "")
        print(f"unpack: not whole yet: {names}; bring {', '.join(needed)} and repeat the command")
    if any(not entry["path"].startswith("data/") for entry in absent) or not install(manifest, target):
        return 1
    print("unpack: complete. Run:" if not absent else "unpack: all but these data is there. Run:")
    print(f"  cd {target / 'source'} && PYTHONPATH={target / 'site'} {sys.executable} -m benchmarks.gpu")
    return 0


def read_manifest(file: Path) -> dict[str, Any]:
    """What was packed.

    Raises:
        ValueError: It is missing or damaged, or names a file outside the target folder.
    """
    try:
        manifest: dict[str, Any] = json.loads(file.read_text())
        paths = [entry["path"] for entry in manifest["files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: expected the manifest that pack wrote, received none ({error}).") from error
    for path in paths:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts:
            raise ValueError(f"{file}: expected paths below the target folder, received {path}.")
    return manifest


def lay_out(archive: Path, digest: str, manifest: dict[str, Any], target: Path) -> None:
    """Verify an archive and write the files, or parts of files, that the manifest says it holds.

    Raises:
        ValueError: Its hash, or that of a file, is another.
    """
    if sha256(archive) != digest:
        raise ValueError(f"{archive}: expected SHA-256 {digest}, received another; bring it again.")
    with tarfile.open(archive) as tar:
        for entry in manifest["files"]:
            for number, part in enumerate(entry["parts"], start=1):
                if part["archive"] != archive.name:
                    continue
                source = tar.extractfile(part["member"])
                assert source is not None
                place = _part(target, entry, number)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(source.read())
    for entry in manifest["files"]:
        _join(entry, target)


def _part(target: Path, entry: dict[str, Any], number: int) -> Path:
    whole = target.joinpath(entry["path"])
    return whole if len(entry["parts"]) == 1 else whole.with_name(f"{whole.name}.part{number:03d}")


def _join(entry: dict[str, Any], target: Path) -> None:
    """Make a file of its parts when all are there, and verify it."""
    whole = target / entry["path"]
    parts = [_part(target, entry, number) for number in range(1, len(entry["parts"]) + 1)]
    if len(parts) > 1 and not whole.exists() and all(part.exists() for part in parts):
        with whole.open("wb") as file:
            for part in parts:
                file.write(part.read_bytes())
        for part in parts:
            part.unlink()
    if whole.exists() and whole.stat().st_size != entry["bytes"]:
        raise ValueError(f"{whole}: expected {entry['bytes']} bytes, received {whole.stat().st_size}.")


def missing(manifest: dict[str, Any], target: Path) -> Iterator[dict[str, Any]]:
    """Files that are not there whole.

    Raises:
        ValueError: A file that is there has another hash.
    """
    for entry in manifest["files"]:
        file = target / entry["path"]
        if not file.exists():
            yield entry
        elif sha256(file) != entry["sha256"]:
            raise ValueError(
                f"{file}: expected SHA-256 {entry['sha256']}, received another; remove it and unpack again."
            )


def install(manifest: dict[str, Any], target: Path) -> bool:
    """Install the wheels of what this Python lacks into `site/`; what it has in a fitting version is left alone."""
    version = ".".join(map(str, sys.version_info[:2]))
    if version != manifest["python"]:
        print(
            f"unpack: expected Python {manifest['python']}, for which was packed, received {version}", file=sys.stderr
        )
        return False
    wheels, report, site = target / "wheels", target / "install.json", target / "site"
    if (site / MANIFEST).exists() and json.loads((site / MANIFEST).read_text()) == manifest:
        return True
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-index"]
    # pip itself says what is lacking; `--target` alone would install everything again.
    asked = [*pip, "--dry-run", "--find-links", str(wheels), "--report", str(report), *manifest["requirements"]]
    if subprocess.run(asked).returncode != 0:
        return False
    chosen = [
        item["download_info"]["url"].removeprefix("file://") for item in json.loads(report.read_text())["install"]
    ]
    if _importable("torch"):
        # Peers come without what they ask for (another build of PyTorch), where they are not there already.
        chosen += [str(wheels / wheel) for name, wheel in manifest["peers"].items() if not _importable(name)]
    names = ", ".join(Path(file).name.split("-")[0] for file in chosen)
    print(f"unpack: installing {len(chosen)} packages that are not there: {names or 'none'}")
    here = [*pip, "--no-deps", "--no-compile", "--upgrade", "--target", str(site), *chosen]
    if chosen and subprocess.run(here).returncode != 0:
        return False
    site.mkdir(exist_ok=True)
    (site / MANIFEST).write_text(json.dumps(manifest))
    return True


def _importable(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


def sha256(file: Path) -> str:
    """The file's hash."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
