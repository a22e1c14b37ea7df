"""Tables of the pages name all that there is."""

import re

import slurmfutures
from slurmfutures._options import OURS
from tests.docs.pages import TABLES, rows_of
from tests.docs.test_pages import ROOT


def test_the_table_of_errors_has_them_all() -> None:
    table = (ROOT / "docs/reference/errors.md").read_text()
    kinds = [getattr(slurmfutures, name) for name in slurmfutures.__all__]
    errors = {
        kind.__name__ for kind in kinds if isinstance(kind, type) and issubclass(kind, slurmfutures.SlurmFuturesError)
    }
    bases = {"SlurmFuturesError", "JobError"}
    assert set(re.findall(r"^\| \[`(\w+)`\]\(", table, re.MULTILINE)) == errors - bases


def test_the_table_of_options_that_are_not_free_has_them_all() -> None:
    page = (ROOT / "docs/reference/options.md").read_text()
    rows = re.findall(r"^\| (`.+?`) \| ", page.partition("## Those that are not free")[2], re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(OURS)


# What the reference system's users call, by its own names.
_THEIRS = """from_config init run run_python_script run_python_fn submit upload download mkdir dump_text load_text glob
    upload_python_pkg sym_link resolve_artifact setup_workspace is_local tmp_dir create_executor ResourceManager
    get_job_state done is_success cancel resubmit result result_async gather_jobs max_tries raise_error
    BashTemplate BashStep BashScript render make_gpu_parallel_steps cmd_with_checkpoint list_split
    set_checkpoint_dir apply_checkpoint ssh.host ssh.gateway sbatch_bin squeue_bin scancel_bin polling_interval
    work_dir python_cmd success_indicator name checkpoint exit_on_error header setup teardown""".split()


def test_what_there_is_elsewhere_has_a_row_with_code_that_runs() -> None:
    page = (ROOT / "docs/from-ai2-kit.md").read_text()
    rows = [
        line.split(" | ")
        for line in page.partition(TABLES)[2].splitlines()
        if line.startswith("| ") and "---" not in line
    ]
    rows = [row for row in rows if row[0] != "| ai2-kit"]
    theirs = " ".join(row[0] for row in rows)
    assert [name for name in _THEIRS if not re.search(rf"\b{re.escape(name)}\b", theirs)] == []
    assert len(rows_of(page)) >= len(rows) >= 60
    assert [row for row in rows if "`" not in row[1]] == []
