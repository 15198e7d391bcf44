"""Archives for a machine without a package index: wheels, this checkout and data, each archive below a size.

The machine brings Python and JAX or PyTorch; the archives hold what `tnt-exp train tracking=off` needs beyond that.
TensorFlow, MLflow, Optuna and scikit-learn are not among it, and the digits travel as a file.
"""

import argparse
import hashlib
import io
import json
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.stage import ROOT
from benchmarks.gpu.unpack import MANIFEST, sha256

# What the project asks for and a run on JAX or PyTorch with tracking=off does without.
LEFT_OUT = {"tensorflow", "mlflow", "optuna", "scikit-learn"}
TESTS = ("pytest", "pytest-timeout", "hypothesis")
# On the package index as source alone; pure Python, so that a wheel made here fits everywhere.
SOURCE_ONLY = ("antlr4-python3-runtime",)
# Installed as they are, without PyTorch; huggingface_hub is what timm imports besides. See the Makefile.
PEERS = {"timm": "timm==1.0.31", "torchvision": "torchvision==0.28.0"}
PEER_NEEDS = ("huggingface_hub",)
PLATFORMS = (*(f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 17, 12)), "manylinux2014_x86_64")
SOURCE = ("tnt_exp", "hydra_plugins", "conf", "benchmarks", "tests", "pyproject.toml", "README.md", "LICENSE")
_ARCHIVE_EXTRA = 64 * 1024  # of an archive beyond what it holds: headers, and tar's block at the end
_MEMBER_EXTRA = 2048


def main(arguments: Sequence[str]) -> int:
    """Write the archives, their manifest and unpack.py."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu pack", description=__doc__)
    parser.add_argument("--limit", type=size, default="60MB", help="most bytes of an archive: 60MB, 64MiB")
    parser.add_argument("--python", default=".".join(platform.python_version_tuple()[:2]), help="of the machine: 3.12")
    parser.add_argument("--data", type=Path, action="append", default=[], help="a further file, CIFAR-100 for `train`")
    parser.add_argument("--peers", action="store_true", help="timm and torchvision too, to be compared with")
    parser.add_argument("--to", type=Path, default=ROOT / "dist" / "gpu", help="folder of the archives")
    options = parser.parse_args(arguments)
    for file in options.data:
        if not file.is_file():
            print(f"pack: --data: expected a file, received {file}", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory() as folder:
        wheels = Path(folder)
        asked = requirements(peers=options.peers)
        try:
            peers = download(wheels, asked, options.python, peers=options.peers)
        except subprocess.CalledProcessError:
            print(
                f"pack: expected wheels of every requirement for Python {options.python}, received none",
                file=sys.stderr,
            )
            return 1
        contents = {f"source/{name}": data for name, data in checkout()}
        contents["data/digits.npz"] = digits()
        contents |= {f"wheels/{wheel.name}": wheel.read_bytes() for wheel in sorted(wheels.glob("*.whl"))}
        contents |= {f"data/{file.name}": file.read_bytes() for file in options.data}
    about = {"python": options.python, "requirements": asked, "peers": peers}
    written = write(contents, options.to, options.limit, about, last=[f"data/{file.name}" for file in options.data])
    for file in written:
        print(f"pack: {file.name}: {file.stat().st_size / 1e6:.1f} MB")
    kinds = {
        kind: sum(len(data) for name, data in contents.items() if name.startswith(kind))
        for kind in ("source", "wheels", "data")
    }
    print("pack: " + ", ".join(f"{kind} {total / 1e6:.1f} MB" for kind, total in kinds.items()) + f"; in {options.to}")
    print(
        "pack: bring the folder to the machine, whole or archive by archive, and there: python unpack.py . --to FOLDER"
    )
    return 0


def size(text: str) -> int:
    """Bytes of 60MB, 64MiB or 1000000."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(MB|MiB|)", text)
    if found is None or float(found[1]) <= 0:
        raise argparse.ArgumentTypeError(f"expected a size as 60MB or 64MiB, received {text!r}")
    return int(float(found[1]) * {"MB": 10**6, "MiB": 2**20, "": 1}[found[2]])


def requirements(*, peers: bool) -> list[str]:
    """What the project asks for, less what is left out, and the tests' packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tests = [line for line in project["optional-dependencies"]["test"] if _name(line) in TESTS]
    own = [line for line in project["dependencies"] if _name(line) not in LEFT_OUT]
    return [*own, *tests, *(PEER_NEEDS if peers else ())]


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return found[0].lower().replace("_", "-")


def constraints(python: str) -> list[str]:
    """The lines of requirements.lock that hold for a version of Python; markers are pip's to read only for its own."""
    from packaging.requirements import Requirement

    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    lines = []
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if not line.strip() or line.lstrip().startswith(("#", "-")):
            continue
        found = Requirement(line)
        if found.marker is None or found.marker.evaluate(environment):
            lines.append(f"{found.name}{found.specifier}")
    return lines


def download(folder: Path, asked: Sequence[str], python: str, *, peers: bool) -> dict[str, str]:
    """Fetch wheels; the peers' names and wheels.

    Raises:
        subprocess.CalledProcessError: pip found no wheel; it has printed of what.
    """
    with tempfile.TemporaryDirectory() as other:
        held = Path(other) / "constraints.txt"
        held.write_text("\n".join(constraints(python)) + "\n")
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        made = [*pip, "wheel", "--no-deps", "--constraint", str(held), "--wheel-dir", str(folder), *SOURCE_ONLY]
        subprocess.run(made, check=True)
        target = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
        target += [word for name in PLATFORMS for word in ("--platform", name)]
        fetch = [*pip, "download", "--dest", str(folder), "--find-links", str(folder), *target]
        subprocess.run([*fetch, "--constraint", str(held), *asked], check=True)
        found = {}
        for name, requirement in PEERS.items() if peers else ():
            before = set(folder.glob("*.whl"))
            subprocess.run([*fetch, "--no-deps", requirement], check=True)
            (wheel,) = set(folder.glob("*.whl")) - before
            found[name] = wheel.name
        return found


def checkout() -> Iterator[tuple[str, bytes]]:
    """Files of this checkout that a run, its tests and these benchmarks need; results stay here."""
    listed = subprocess.run(["git", "ls-files", *SOURCE], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if not name.startswith("benchmarks/results/") and (ROOT / name).is_file():
            yield name, (ROOT / name).read_bytes()


def digits() -> bytes:
    """scikit-learn's handwritten digits as the data set `npz` reads them, split as the data set `digits` is."""
    import numpy as np

    from tnt_exp.config.compose import compose
    from tnt_exp.data import load_dataset

    found = load_dataset(compose(["dataset=digits", "dataset.validation_fraction=0"]).dataset)
    parts = {"train": found.train, "test": found.test}
    images = {f"x_{name}": part.images for name, part in parts.items()}
    labels = {f"y_{name}": part.labels for name, part in parts.items()}
    stream = io.BytesIO()
    np.savez_compressed(stream, **images, **labels)
    return stream.getvalue()


def write(
    contents: dict[str, bytes], folder: Path, limit: int, about: dict[str, Any], last: Collection[str] = ()
) -> list[Path]:
    """Fill archives first fit: the checkout, wheels, then `last`; a file beyond the limit is cut into parts.

    Raises:
        ValueError: The limit leaves no room.
    """
    room = limit - _ARCHIVE_EXTRA
    if room < 2 * _MEMBER_EXTRA:
        raise ValueError(
            f"Expected a limit of more than {_ARCHIVE_EXTRA + 2 * _MEMBER_EXTRA} bytes, received: {limit}."
        )
    most = room - _MEMBER_EXTRA
    pieces = [
        (f"{name}.part{number:03d}" if len(data) > most else name, name, data[first : first + most])
        for name, data in contents.items()
        for number, first in enumerate(range(0, max(len(data), 1), most), start=1)
    ]
    archives: list[tuple[int, list[tuple[str, str, bytes]]]] = []
    # So the first archives are all that the stages check and speed need.
    order = sorted(
        pieces, key=lambda piece: (piece[1] in last, piece[1].startswith("wheels/"), -len(piece[2]), piece[0])
    )
    for piece in order:
        needed = len(piece[2]) + _MEMBER_EXTRA
        place = next((k for k, (used, _) in enumerate(archives) if used + needed <= room), None)
        if place is None:
            archives.append((needed, [piece]))
        else:
            used, held = archives[place]
            archives[place] = used + needed, [*held, piece]
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("tnt-exp-gpu-*.tar"):
        old.unlink()
    files: dict[str, list[dict[str, str]]] = {}
    written = []
    for number, (_, held) in enumerate(archives, start=1):
        file = folder / f"tnt-exp-gpu-{number}.tar"
        with tarfile.open(file, "w") as tar:
            for member, name, data in sorted(held):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
                files.setdefault(name, []).append({"archive": file.name, "member": member})
        written.append(file)
    manifest = {
        **about,
        "archives": {file.name: sha256(file) for file in written},
        "files": [
            {
                "path": name,
                "bytes": len(contents[name]),
                "sha256": hashlib.sha256(contents[name]).hexdigest(),
                "parts": sorted(parts, key=lambda part: part["member"]),
            }
            for name, parts in sorted(files.items())
        ],
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    shutil.copyfile(Path(__file__).with_name("unpack.py"), folder / "unpack.py")
    return [*written, folder / MANIFEST, folder / "unpack.py"]
