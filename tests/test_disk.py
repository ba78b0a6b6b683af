"""Files are written completely or not at all."""

import hashlib
import resource
import signal
from pathlib import Path

import pytest
import torch

from ganzoo.disk import sha256, whole, write_whole
from ganzoo.errors import UserError


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    write_whole(path, "é")
    assert path.read_bytes() == b"\xc3\xa9"

    def fail() -> None:
        with whole(path) as partial:
            partial.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["facts.json"]
    assert path.read_text(encoding="utf-8") == "é"


def test_the_remedy_is_the_caller_s(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"facts could not be written \(No such .*\)\. Try later\."):
        write_whole(tmp_path / "missing" / "facts", b"", "Try later.")


def test_a_full_disk_is_recognized_below_torch(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with (
            pytest.raises(UserError, match="File too large"),
            whole(tmp_path / "weights") as partial,
            partial.open("wb") as file,
        ):
            torch.save({"weight": torch.zeros(100_000)}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_checksums(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()
