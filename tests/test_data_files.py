"""The same images wherever they lie: folder, zip, tar, pack. What lies there and is no image."""

import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from makers.photos import crops
from torch.utils.data import DataLoader

from ganzoo.data.files import open_files
from ganzoo.data.loader import unchanged
from ganzoo.data.packing import write_pack
from ganzoo.data.sources.folder import Folder
from ganzoo.data.sources.pack import Pack
from ganzoo.data.subset import Subset
from ganzoo.errors import UserError

NAMES = ["b/2.jpg", "a/10.jpg", "a/9.png", "b/deep/é ü 日本.jpg", "b/1.jpeg"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("files") / "photos"
    for name, photo in zip(NAMES, crops(len(NAMES), 90, 70), strict=True):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.save(path)
    (root / "b" / ".hidden.jpg").write_bytes(b"not shown")
    (root / "b" / "list.txt").write_text("not an image")
    return root


def zipped(tree: Path, out: Path, prefix: str = "", kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(out, "w", kind) as archive:
        for path in sorted(tree.rglob("*"), reverse=True):
            archive.write(path, prefix + path.relative_to(tree).as_posix())
    return out


def tarred(tree: Path, out: Path, prefix: str = ".", mode: str = "w") -> Path:
    with tarfile.open(out, mode) as archive:  # type: ignore[call-overload]
        archive.add(tree, prefix)
    return out


@pytest.fixture(scope="module")
def everywhere(tree: Path) -> dict[str, Path]:
    beside = tree.parent
    return {
        "folder": tree,
        "zip": zipped(tree, beside / "a.zip"),
        "zip in a folder": zipped(tree, beside / "b.zip", "my/photos/", zipfile.ZIP_STORED),
        "tar": tarred(tree, beside / "a.tar"),
        "tar in a folder": tarred(tree, beside / "b.tar", "photos"),
    }


def test_the_same_images_from_everywhere(everywhere: dict[str, Path], tmp_path: Path) -> None:
    sources = {kind: Folder(str(path), 32) for kind, path in everywhere.items()}
    write_pack(sources["folder"], tmp_path / "pack", workers=0)
    write_pack(sources["zip"], tmp_path / "pack of zip", workers=0)
    sources |= {name: Pack(str(tmp_path / name), 32) for name in ("pack", "pack of zip")}
    indices = list(range(len(NAMES)))
    expected = sources["folder"].__getitems__(indices)
    assert len(expected["image"].flatten(1).unique(dim=0)) == len(NAMES)
    for kind, source in sources.items():
        assert [source.name_of(i) for i in indices] == sorted(NAMES), kind
        assert source.classes == ["a", "b"]
        assert source.labels().tolist() == [0, 0, 1, 1, 1]
        batch = source.__getitems__(indices[::-1])
        assert torch.equal(batch["image"].flip(0), expected["image"]), kind
        assert torch.equal(batch["label"].flip(0), expected["label"]), kind


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_are_read_by_several_processes_at_once(kind, everywhere) -> None:
    source = Folder(str(everywhere[kind]), 32)
    expected = source.__getitems__([0, 1, 2, 3, 4])["image"]  # opened here, before the fork
    order = [[i % 5, (i + 1) % 5] for i in range(60)]
    loader = DataLoader(source, batch_sampler=order, num_workers=2, collate_fn=unchanged)
    for indices, batch in zip(order, loader, strict=True):
        assert torch.equal(batch["image"], expected[indices])
    again = pickle.loads(pickle.dumps(source))
    assert torch.equal(again.__getitems__([3])["image"][0], expected[3])


def test_the_root_in_an_archive_is_said(everywhere) -> None:
    notes = Folder(str(everywhere["zip in a folder"]), 32).notes
    assert "Everything in b.zip is in its folder my/photos/, which is used as the root." in notes
    assert not any("used as the root" in n for n in Folder(str(everywhere["zip"]), 32).notes)


@pytest.mark.parametrize("name", ["../out.jpg", "a/../../out.jpg", "/etc/out.jpg", "C:\\out.jpg"])
def test_paths_that_lead_out_are_refused(name, tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good.jpg", b"")
        archive.writestr(name, b"")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    for kind in ("zip", "tar"):
        with pytest.raises(UserError, match=r"paths that lead out of it \(.*out\.jpg\)"):
            open_files(tmp_path / f"a.{kind}")


def test_damaged_and_compressed_archives(tree, tmp_path) -> None:
    whole = zipped(tree, tmp_path / "a.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.tar").write_text("not a tar")
    for name in ("half.zip", "text.tar"):
        with pytest.raises(UserError, match="not a folder, zip or tar"):
            open_files(tmp_path / name)
    tarred(tree, tmp_path / "a.tar.gz", mode="w:gz")
    with pytest.raises(UserError, match=r"compressed tar.*tar xf a\.tar\.gz"):
        open_files(tmp_path / "a.tar.gz")


def test_an_image_damaged_in_its_zip_is_named(tree, tmp_path) -> None:
    path = zipped(tree, tmp_path / "a.zip", kind=zipfile.ZIP_STORED)
    damaged = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("a/10.jpg").header_offset + 200
    damaged[at] ^= 255
    path.write_bytes(damaged)
    source = Folder(str(path), 32)
    with pytest.raises(UserError, match=r"a/10\.jpg cannot be read \(Bad CRC-32"):
        source.__getitems__([0])
    source.__getitems__([1, 2])


def test_links_are_followed_unless_they_lead_back(tree, tmp_path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    crops(1, 20, 20)[0].save(root / "a" / "1.png")
    (root / "linked").symlink_to(tree / "b")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to("self")
    (root / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    files = open_files(root)
    linked = ["linked/1.jpeg", "linked/2.jpg", "linked/deep/é ü 日本.jpg", "linked/list.txt"]
    assert files.names == ["a/1.png", "a/gone.png", "a/self", *linked]
    assert files.notes == [
        f"1 links in {root} lead to a folder above them and are not followed: a/up."
    ]
    with pytest.raises(UserError, match=r"1 of 5 .*\(a/gone\.png; the first one: No such file"):
        _ = Folder(str(root), 32).notes


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_folders_that_may_not_be_opened(tmp_path_factory) -> None:
    root = tmp_path_factory.mktemp("locked")
    for folder in (root, *(p for p in root.parents if p.name.startswith(("pytest", "popen")))):
        folder.chmod(0o755)
    for name in ("open", "locked"):
        (root / name).mkdir()
        crops(1, 20, 20)[0].save(root / name / "1.png")
    (root / "locked").chmod(0o700)
    os.seteuid(65534)  # nobody
    try:
        files = open_files(root)
        source = Folder(str(root), 16)
        assert files.names == ["open/1.png"]
        assert files.problems == source.problems
        assert "1 folders in" in files.problems[0]
        assert "(locked): change their permissions" in files.problems[0]
        with pytest.raises(UserError, match="locked"):
            _ = source.notes
    finally:
        os.seteuid(0)


def test_held_out_images_are_the_same_everywhere(everywhere, tmp_path) -> None:
    write_pack(Folder(str(everywhere["folder"]), 16), tmp_path / "pack", workers=0)

    def names(make, split) -> list[str]:
        source = make(split=split, held_out=0.4)
        return [source.name_of(i) for i in range(len(source))]

    def folder(**options):
        return Folder(str(everywhere["zip"]), 16, **options)

    def pack(**options):
        return Pack(str(tmp_path / "pack"), **options)

    train, test = names(folder, "train"), names(folder, "test")
    assert len(train) == 3
    assert len(test) == 2
    assert sorted(train + test) == sorted(NAMES)
    assert (names(pack, "train"), names(pack, "test")) == (train, test)
    held_out = pack(split="test", held_out=0.4)
    whole = folder(split="all")
    place = [sorted(NAMES).index(name) for name in test]
    assert torch.equal(
        held_out.__getitems__([1, 0])["image"], whole.__getitems__(place[::-1])["image"]
    )
    assert held_out.labels().tolist() == whole.labels()[place].tolist()
    for options in ({"split": "val"}, {"held_out": 1.0}, {"split": "test"}):
        with pytest.raises(UserError, match=r"held_out|held out|split"):
            len(folder(**options))


# -- what containers say of themselves -------------------------------------------------------------


def test_hard_links_in_a_tar_are_files(tree, tmp_path) -> None:
    root = tmp_path / "photos"
    shutil.copytree(tree, root)
    os.link(root / "a" / "9.png", root / "b" / "same.png")
    files = open_files(tarred(root, tmp_path / "a.tar"))
    assert files.names == open_files(root).names
    assert files.open("b/same.png").read() == files.open("a/9.png").read()
    assert files.notes == []


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_truncated_tar_is_refused(share, tree, tmp_path) -> None:
    data = tarred(tree, tmp_path / "a.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match="damaged or incomplete tar"):
        open_files(tmp_path / "cut.tar")


def test_a_tar_that_ends_in_a_zip_is_a_tar(tree, tmp_path) -> None:
    root = tmp_path / "photos"
    shutil.copytree(tree, root)
    zipped(tree, root / "z.zip")
    assert len(Folder(str(tarred(root, tmp_path / "a.tar")), 32)) == len(NAMES)


def test_backslashes_in_a_zip_are_folders(tree, tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in NAMES:
            info = zipfile.ZipInfo()
            info.filename = name.replace("/", "\\")
            archive.writestr(info, (tree / name).read_bytes())
    source = Folder(str(tmp_path / "a.zip"), 32)
    assert (source.classes, source.labels().tolist()) == (["a", "b"], [0, 0, 1, 1, 1])
    source.__getitems__([0, 1, 2, 3, 4])


def test_pipes_are_refused_by_name(tree, tmp_path) -> None:
    root = tmp_path / "photos"
    shutil.copytree(tree, root)
    os.mkfifo(root / "a" / "pipe.png")
    with pytest.raises(UserError, match=r"inspected images .*a/pipe\.png; .*pipe, socket, device"):
        _ = Folder(str(root), 32).notes
    with pytest.raises(UserError, match="is not a folder, zip or tar"):
        open_files(root / "a" / "pipe.png")


@pytest.mark.parametrize("labeled", [True, False])
def test_shards_with_a_json_of_labels_are_no_classes(labeled, tree, tmp_path) -> None:
    names = [f"{i // 3:05}/img{i:08}.jpg" for i in range(5)]
    labels = [[name, 10 * (i % 2)] for i, name in enumerate(names)] if labeled else None
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.write(tree / "b/2.jpg", name)
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    source = Folder(str(tmp_path / "a.zip"), 32)
    if labeled:
        assert (source.classes, source.labels().tolist()) == (["0", "10"], [0, 1, 0, 1, 0])
    else:
        assert source.labels() is source.classes is None


def test_numbers_as_classes_are_in_their_order(tmp_path) -> None:
    for name in ("10", "9", "0"):
        (tmp_path / name).mkdir()
        crops(1, 20, 20)[0].save(tmp_path / name / "a.png")
    source = Folder(str(tmp_path), 16)
    assert (source.classes, source.labels().tolist()) == (["0", "9", "10"], [0, 2, 1])
    assert len(Subset(source, classes=[0, 10])) == 2  # Hydra reads these names as numbers


# -- the identity of data --------------------------------------------------------------------------


def test_the_fingerprint_is_of_the_content(everywhere, tree, tmp_path) -> None:
    def of(path: Path) -> str:
        return Folder(str(path), 32).fingerprint()

    moved = tmp_path / "elsewhere"
    shutil.copytree(tree, moved)
    assert {of(path) for path in everywhere.values()} == {of(moved)}
    data = bytearray((moved / "a/9.png").read_bytes())
    data[-20] ^= 1  # the same size
    (moved / "a/9.png").write_bytes(data)
    assert of(moved) != of(tree)
    (moved / "a/9.png").write_bytes((tree / "a/9.png").read_bytes())
    assert of(moved) == of(tree)
    (moved / "a/9.png").rename(moved / "a/8.png")
    assert of(moved) != of(tree)
