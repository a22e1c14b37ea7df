"""Which files and folders are used, and how each refusal reads."""

import os
import stat
from pathlib import Path

import pytest

from slurmfutures._remote import trust
from tests.strangers.accounts import Stranger


def test_what_is_ours_and_closed_is_used(common: Path) -> None:
    trust.make_folder(str(common / "folder"))
    trust.make_folder(str(common / "folder"))  # again
    assert stat.S_IMODE((common / "folder").stat().st_mode) == 0o700
    path = str(common / "file")
    os.close(trust.open_file(path, os.O_WRONLY | os.O_CREAT))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    (common / "file").write_bytes(b"12345")
    assert trust.read(path, 3) == b"123"


def test_what_another_account_owns_is_refused(common: Path, stranger: Stranger) -> None:
    folder, file = common / "folder", common / "file"
    folder.mkdir(0o700)
    file.write_text("")
    stranger.own(folder, file)
    whose = rf"of {stranger.name} \(uid {stranger.uid}\), mode 0"
    with pytest.raises(trust.Untrusted, match=f"a folder {whose}700 and not yours"):
        trust.check_folder(str(folder))
    with pytest.raises(trust.Untrusted, match="and not yours"):
        trust.make_folder(str(folder))
    with pytest.raises(trust.Untrusted, match=f"a file {whose}"):
        trust.open_file(str(file))
    assert [name for name, _ in trust.entries(str(common))] == []


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_what_others_can_write_to_is_refused(common: Path, mode: int) -> None:
    (common / "file").write_text("")
    (common / "file").chmod(mode)
    (common / "folder").mkdir()
    (common / "folder").chmod(mode | 0o100)
    with pytest.raises(trust.Untrusted, match=r"so others can write to it.*chmod go-w"):
        trust.open_file(str(common / "file"))
    with pytest.raises(trust.Untrusted, match=r"so others can write to it.*chmod go-w"):
        trust.check_folder(str(common / "folder"))
    os.close(trust.open_file(str(common / "file"), closed=False))


def test_links_fifos_and_the_wrong_kind_are_refused(common: Path) -> None:
    (common / "file").write_text("")
    (common / "link").symlink_to(common / "file")
    (common / "dangling").symlink_to(common / "nothing")
    (common / "around").symlink_to(common)
    os.mkfifo(common / "fifo")
    for name in ("link", "dangling", "fifo"):
        for flags in (os.O_RDONLY, os.O_RDWR | os.O_CREAT):
            with pytest.raises(trust.Untrusted, match="in place of a file"):
                trust.open_file(str(common / name), flags)
    with pytest.raises((trust.Untrusted, IsADirectoryError)):
        trust.open_reader(str(common)).close()
    for name in ("file", "around", "fifo"):
        with pytest.raises(trust.Untrusted, match="in place of a folder"):
            trust.check_folder(str(common / name))
    with pytest.raises(FileNotFoundError):
        trust.open_file(str(common / "nothing"))
    assert not (common / "nothing").exists()
