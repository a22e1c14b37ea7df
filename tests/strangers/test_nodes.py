"""On a node that does not share work_dir somebody else may have made folders of its name: nothing in them is run."""

import os
from pathlib import Path

import pytest

from slurmfutures._remote import script
from tests.strangers.accounts import Stranger
from tests.unit.test_script import Batch


@pytest.mark.parametrize("what", ["work_dir", "batches", "batch", "results", "code", "package", "start.py"])
def test_a_job_does_not_start_from_a_folder_of_a_stranger(what: str, common: Path, stranger: Stranger) -> None:
    (common / "work").mkdir()
    batch = Batch(common / "work")
    places = {
        "work_dir": common / "work",
        "batches": Path(batch.folder.path).parent,
        "batch": Path(batch.folder.path),
        "results": Path(batch.part.results),
        "code": batch.code,
        "package": batch.code / str(script.__package__),
        "start.py": batch.code / "start.py",
    }
    proof = common / "proof"
    command = f"touch {proof} #"
    os.chown(places[what], stranger.uid, stranger.gid)
    done = batch.run(command)
    assert done.returncode == 66
    assert "is not yours, or not there: is work_dir on a file system that the compute nodes share?" in done.stderr
    assert str(places[what]) in done.stderr
    assert not proof.exists()
    os.chown(places[what], os.geteuid(), os.getegid())
    batch.run(command)
    assert proof.exists()


@pytest.mark.parametrize("what", ["batches", "batch", "code"])
def test_a_job_does_not_start_by_way_of_a_link(what: str, common: Path) -> None:
    """It may be anybody's, and lead to something of the user's."""
    (common / "work").mkdir()
    batch = Batch(common / "work")
    folder = Path(batch.folder.path)
    command = batch.command(f"touch {common}/proof #")
    place = {"batches": folder.parent, "batch": folder, "code": batch.code}[what]
    place.rename(common / "elsewhere")
    place.symlink_to(common / "elsewhere")
    done = batch.start(command)
    assert (done.returncode, (common / "proof").exists()) == (66, False)
    place.unlink()
    (common / "elsewhere").rename(place)
    (common / "work").rename(common / "scratch")
    (common / "work").symlink_to(common / "scratch")  # as the user has it
    assert batch.start(command).returncode != 66
    assert (common / "proof").exists()


def test_a_script_of_the_user_s_is_not_run_where_it_is_a_stranger_s(common: Path, stranger: Stranger) -> None:
    (common / "work").mkdir()
    batch = Batch(common / "work")
    own = Path(batch.folder.own)
    own.write_text(f"touch {common}/proof\n")
    stranger.own(own)
    text = script.render_around(
        batch="abc",
        folder=batch.folder.path,
        directives=[],
        interpreter=["/bin/sh"],
        environment={},
        script=str(own),
    )
    (own.parent / "script.sh").write_text(text)
    done = batch.start(["/bin/bash", str(own.parent / "script.sh"), "3", "0"])
    assert done.returncode == 66
    assert f"{own} on node" in done.stderr
    assert not (common / "proof").exists()
