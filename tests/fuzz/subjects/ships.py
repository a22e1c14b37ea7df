"""Users' own code, as a zip."""

import io
import os
import shutil
import warnings
import zipfile
from pathlib import Path

from hypothesis import strategies as st

from slurmfutures._remote import ships
from tests.fuzz.harness import Parser


def _zip(*names: str, mode: int = 0o100600, data: bytes = b"x = 1\n") -> bytes:
    target = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        warnings.simplefilter("ignore")  # a name may be there twice
        for name in names:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, data)
    return target.getvalue()


def _store(data: bytes, folder: Path) -> object:
    work_dir = folder / "w"
    shutil.rmtree(work_dir, ignore_errors=True)
    (work_dir / "ship").mkdir(mode=0o700, parents=True)
    archive = folder / "incoming"
    archive.write_bytes(data)
    try:
        ships.store(ships.folder_of(str(work_dir), "0" * 20), str(archive))
    finally:
        found = sorted(os.listdir(folder))
        assert found == ["w"], f"files outside: {found}"
        assert set(os.listdir(work_dir)) <= {"ship", "unpack.lock"}
        assert set(os.listdir(work_dir / "ship")) <= {"0" * 20}
    return [path.name for path in (work_dir / "ship").rglob("*")]


_NAMES = st.sampled_from(
    (
        "m.py",
        "p/m.py",
        "../x",
        "p/../../y",
        "p/",
        "p",
        "a" * 300,
        "..",
        ".",
        "",
        "\0",
        "\ud83d",
        "p//m.py",
        "\\x",
        "ü.py",
    )
)
_MODES = st.sampled_from((0o100600, 0o104755, 0o120777, 0o40755, 0o10600, 0))
_SEEDS = [_zip("m.py", "p/__init__.py"), _zip("run", mode=0o100755)]

PARSERS = (
    Parser(
        "_remote.ships:store",
        _store,
        _SEEDS,
        (OSError,),
        writes=True,
        more=st.builds(
            lambda names, mode: _zip(*names, mode=mode),
            st.lists(_NAMES.filter(lambda name: "\ud83d" not in name), min_size=1, max_size=4, unique=True),
            _MODES,
        ),
        tokens=[
            b"PK\1\2",
            b"PK\3\4",
            b"PK\5\6",
            b"\xff" * 4,
            b"\1\0",
            b"\x0c\0",
            b"\x0e\0",
            b"\x63\0",
        ],
    ),
)
