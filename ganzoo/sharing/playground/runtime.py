"""The program that runs networks in browsers, onnxruntime-web: one version, downloaded once."""

import base64
import gzip
import hashlib
import shutil
import subprocess
import tarfile
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from ganzoo.disk import write_whole
from ganzoo.errors import UserError

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web@{VERSION}"
TARBALL = f"onnxruntime-web-{VERSION}.tgz"
INTEGRITY = (  # SHA-512 of the tarball, as npm states it
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
MODULE, WASM = "ort.wasm.bundle.min.mjs", "ort.wasm.gz"  # files of a page
# Files of the package, and their SHA-256: the one for a CPU, without WebGPU.
FILES = {
    MODULE: (
        "ort.wasm.bundle.min.mjs",
        "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    ),
    WASM: (
        "ort-wasm-simd-threaded.wasm",
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    ),
}
COMMAND = "python -m ganzoo.prepare playground"


def load(cache: Path) -> dict[str, bytes]:
    """The files of the runtime by their names on a page, from the cache.

    Raises:
        UserError: they are not there, or damaged.
    """
    found = {}
    for name, (_, digest) in FILES.items():
        path = cache / VERSION / name
        try:
            data = path.read_bytes()
            plain = gzip.decompress(data) if name == WASM else data
        except FileNotFoundError:
            raise UserError(
                f"The program that runs networks in a browser, {PACKAGE}, is not in {cache}: get "
                f"it once with {COMMAND}."
            ) from None
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}): get it again with {COMMAND}.") from error
        if hashlib.sha256(plain).hexdigest() != digest:
            raise UserError(f"{path} is damaged: delete it, and get it again with {COMMAND}.")
        found[name] = data
    return found


def fetch(cache: Path, source: Path | None = None) -> Path:
    """Put the runtime into the cache, unless it is there; returns its folder.

    Args:
        cache: the folder of all versions.
        source: a folder with the package, packed by npm or unpacked; None to download it by npm.

    Raises:
        UserError: there is no npm, no network or no package, or the package is not the right one.
    """
    folder = cache / VERSION
    with suppress(UserError):
        load(cache)
        return folder
    with TemporaryDirectory() as temporary:
        if source is None:
            _download(Path(temporary))
        files = _files(Path(temporary) if source is None else source)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        packed = gzip.compress(data, 9, mtime=0) if name == WASM else data
        write_whole(folder / name, packed)
    load(cache)
    return folder


def _download(folder: Path) -> None:
    npm = shutil.which("npm")
    by_hand = f"run npm pack {PACKAGE} elsewhere, and give its folder with --from"
    if npm is None:
        raise UserError(f"npm, which downloads {PACKAGE}, is missing: install it, or {by_hand}.")
    command = [npm, "pack", PACKAGE, "--silent", "--pack-destination", str(folder)]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if ended.returncode:
        said = " ".join((ended.stderr or ended.stdout).split())[:300]
        raise UserError(
            f"npm could not download {PACKAGE} ({said}): check the network, or {by_hand}."
        )


def _files(folder: Path) -> dict[str, bytes]:
    """The files in a folder with the tarball, or with the package."""
    tarball = folder / TARBALL
    if tarball.is_file():
        sha512 = hashlib.sha512(tarball.read_bytes()).digest()
        if base64.b64encode(sha512).decode() != INTEGRITY:
            raise UserError(f"{tarball} is not {PACKAGE} as published: download it again.")
        with tarfile.open(tarball) as tar:
            members = {
                name: tar.extractfile(f"package/dist/{of}") for name, (of, _) in FILES.items()
            }
            return {name: member.read() for name, member in members.items() if member}
    found: dict[str, bytes] = {}
    for name, (of, digest) in FILES.items():
        path = next((p for p in (folder / of, folder / "dist" / of) if p.is_file()), None)
        if path is None:
            raise UserError(
                f"{folder} has neither {TARBALL} nor {of}: run npm pack {PACKAGE} in it."
            )
        found[name] = path.read_bytes()
        if hashlib.sha256(found[name]).hexdigest() != digest:
            raise UserError(f"{path} is not that of {PACKAGE}: run npm pack {PACKAGE}.")
    return found
