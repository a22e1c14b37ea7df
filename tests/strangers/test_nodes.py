"""On a node that does not share work_dir somebody else may have made folders of its name: nothing in them is run."""

import os
from pathlib import Path

import pytest

from slurmfutures._remote import script
from tests.strangers.accounts import Stranger
from tests.unit.test_script import Batch


@pytest.mark.parametrize("what", ["work_dir", "batch", "results", "code", "package", "start.py"])
def test_a_job_does_not_start_from_a_folder_of_a_stranger(what: str, common: Path, stranger: Stranger) -> None:
    (common / "work").mkdir()
    batch = Batch(common / "work")
    places = {
        "work_dir": common / "work",
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
