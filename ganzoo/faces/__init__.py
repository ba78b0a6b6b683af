"""Seeded cartoon faces with attributes, drawn by Node.js from designs in the public domain.

`draw.mjs` draws them with the npm packages that `package.json` names.
"""

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Queue
from threading import Thread

from tqdm import tqdm

from ganzoo.data.sources.faces import SETTINGS, TABLE
from ganzoo.errors import UserError

HERE = Path(__file__).parent
STYLES = ("lorelei", "open-peeps", "pixel-art")  # the last is drawn in 16 x 16 blocks


def draw_faces(
    out: Path,
    num: int,
    size: int,
    style: str = "lorelei",
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Draw `num` faces of `size` x `size` pixels into the folder `out`.

    `images/000000.png`, ... are RGB; `attributes.csv` has the columns `file` and one for each
    attribute; `LICENSE.txt` says whose designs they are. Face i depends on style, seed and i: more
    faces keep the first ones, another size keeps the attributes. The same call goes on with what an
    interrupted one left.

    Args:
        style: one of `STYLES`.
        workers: processes; None is one a core.

    Raises:
        UserError: for arguments out of range, a folder with other contents, no Node.js or npm,
            packages that cannot be installed, a process that fails.
        OSError: where `out` cannot be written.
    """
    workers = (os.cpu_count() or 1) if workers is None else workers
    if style not in STYLES:
        raise UserError(f"There is no style {style}: choose one of {', '.join(STYLES)}.")
    if not (1 <= num <= 1_000_000 and 8 <= size <= 4096 and workers >= 1):
        raise UserError(
            "The number of faces must be from 1 to 1,000,000, their size from 8 to 4096 pixels, "
            "and there must be at least 1 worker."
        )
    version = fingerprint("package.json", "draw.mjs")
    settings = {"style": style, "seed": seed, "size": size, "version": version}
    check_folder(out, num, settings)
    folder, node = packages(), node_path()
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / SETTINGS, json.dumps(settings) + "\n")
    write_whole(out / "LICENSE.txt", license_text(style, folder))
    (out / "images").mkdir(exist_ok=True)
    task = {"packages": str(folder), "images": str(out / "images"), "num": num, **settings}
    workers = min(workers, num)
    commands = [
        [node, str(HERE / "draw.mjs"), json.dumps({**task, "first": first, "step": workers})]
        for first in range(workers)
    ]
    rows = run(commands, num)
    partial = out / f"{TABLE}.partial"
    with partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["file", *rows[0]], lineterminator="\n")
        table.writeheader()
        table.writerows({"file": f"images/{i:06d}.png", **rows[i]} for i in range(num))
    partial.replace(out / TABLE)


def installed() -> bool:
    """Whether faces can be drawn without installing packages first."""
    return packages_folder().is_dir()


def packages() -> Path:
    """The folder whose node_modules hold the packages; npm installs them on first use.

    Raises:
        UserError: without Node.js 18 or npm, or when npm fails.
    """
    node_path()
    folder = packages_folder()
    if folder.is_dir():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise UserError("Faces are drawn by packages that npm installs: install npm.")
    print(f"Installing what draws faces in {folder}, once.", flush=True)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when whole: an interrupted install is never taken for one that is done.
        with tempfile.TemporaryDirectory(
            prefix=f"{folder.name}.", dir=folder.parent, ignore_cleanup_errors=True
        ) as name:
            partial = Path(name) / "partial"
            partial.mkdir()
            shutil.copy(HERE / "package.json", partial)
            options = ["--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
            options += ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]  # else minutes pass
            done = subprocess.run(
                [npm, "install", *options], cwd=partial, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                lines = done.stderr.splitlines() or [f"exit code {done.returncode}"]
                reason = next((line for line in lines if "warn" not in line.lower()), lines[0])
                raise UserError(
                    f"npm cannot install what draws faces ({reason.strip()}): look at the network "
                    f"and npm's settings, then run the same command again."
                )
            if not folder.is_dir():  # another process may have been faster
                partial.rename(folder)
    except OSError as error:
        raise UserError(
            f"{folder.parent} cannot be written ({error.strerror or error}): make room, or set "
            f"XDG_CACHE_HOME to a folder that can be."
        ) from error
    return folder


def packages_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "ganzoo" / f"faces-{fingerprint('package.json')}"


def fingerprint(*names: str) -> str:
    """Of files beside this one, in 12 hexadecimal digits."""
    contents = b"".join((HERE / name).read_bytes() for name in names)
    return hashlib.sha256(contents).hexdigest()[:12]


def node_path() -> str:
    """Where Node.js is. Raises `UserError` when it is not there or older than 18."""
    node = shutil.which("node")
    if node is None:
        raise UserError("Faces are drawn by Node.js: install version 18 or newer, with npm.")
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.match(r"v(\d+)\.", said)
    if version is None or int(version[1]) < 18:
        raise UserError(
            f"{node} is Node.js {said.strip() or 'of no version'}, and faces need 18 or newer: "
            f"install that, with npm."
        )
    return node


def check_folder(out: Path, num: int, settings: Mapping[str, object]) -> None:
    """Raises `UserError` where `out` is not new, empty or `num` faces at most of these settings."""
    kept = out / SETTINGS
    if not kept.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(
                f"{out} holds something other than faces: choose a new or empty folder."
            )
        return
    try:
        made = dict(json.loads(kept.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{kept} is damaged: choose another folder, or delete {out}.") from error
    changed = [f"{k} {made.get(k)}, not {v}" for k, v in settings.items() if made.get(k) != v]
    if changed:
        raise UserError(
            f"{out} holds faces of other settings ({'; '.join(changed)}): give the same ones, or "
            f"choose another folder."
        )
    names = [path.stem for path in (out / "images").glob("*.png")]
    there = 1 + max((int(name) for name in names if name.isdecimal()), default=-1)
    if there > num:
        raise UserError(
            f"{out} holds more than {num} faces: ask for {there} or more, or choose another folder."
        )


def license_text(style: str, folder: Path) -> str:
    """Whose designs the faces of a style are, and what drew them."""
    pinned = json.loads((HERE / "package.json").read_text(encoding="utf-8"))["dependencies"]
    package = f"@dicebear/{style}"
    used = (package, "@dicebear/core", "@resvg/resvg-js")
    terms = (folder / "node_modules" / package / "LICENSE").read_text(encoding="utf-8")
    return (
        f"These pictures show designs of the style {style}, dedicated to the public domain with "
        f"CC0 1.0.\nSource and designer are named below.\n\n"
        f"Drawn with {', '.join(f'{name} {pinned[name]}' for name in used)}.\n\n"
        f"License of {package}, in full:\n\n{terms}"
    )


def write_whole(path: Path, text: str) -> None:
    """Write a file that is either not there or whole."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def run(commands: Sequence[Sequence[str]], num: int) -> dict[int, dict[str, str]]:
    """What processes say about their faces, one line of JSON each: index -> attributes.

    No process is left when this ends, whichever way it does.
    """
    rows: dict[int, dict[str, str]] = {}
    said: Queue[str | subprocess.Popen[str]] = Queue()

    def listen(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                said.put(line)
        said.put(process)

    with (
        tempfile.TemporaryFile("w+", errors="replace") as errors,
        tqdm(total=num, unit=" images", disable=None) as bar,
    ):
        running: list[subprocess.Popen[str]] = []
        try:
            for command in commands:
                process = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8"
                )
                running.append(process)
                Thread(target=listen, args=[process], daemon=True).start()
            ended = 0
            while ended < len(running):
                item = said.get()
                if isinstance(item, str):
                    row = json.loads(item)
                    rows[row.pop("index")] = row
                    bar.update()
                elif item.wait() == 0:
                    ended += 1
                else:
                    errors.seek(0)
                    reason = (errors.read().strip() or f"exit code {item.returncode}").splitlines()
                    raise UserError(
                        f"Drawing faces has failed ({reason[-1]}): mend that and run the same "
                        f"command again, which goes on from here."
                    )
        finally:
            for process in running:
                process.kill()
                process.wait()
    return rows
