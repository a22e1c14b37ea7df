import copy
import json
import pickle

import pytest

from slurmfutures._remote.states import TERMINAL, JobState, parse_state

COMPACT = {
    "BF": "BOOT_FAIL",
    "CA": "CANCELLED",
    "CD": "COMPLETED",
    "CF": "CONFIGURING",
    "CG": "COMPLETING",
    "DL": "DEADLINE",
    "F": "FAILED",
    "NF": "NODE_FAIL",
    "OOM": "OUT_OF_MEMORY",
    "PD": "PENDING",
    "PR": "PREEMPTED",
    "R": "RUNNING",
    "RD": "RESV_DEL_HOLD",
    "RF": "REQUEUE_FED",
    "RH": "REQUEUE_HOLD",
    "RQ": "REQUEUED",
    "RS": "RESIZING",
    "RV": "REVOKED",
    "S": "SUSPENDED",
    "SE": "SPECIAL_EXIT",
    "SI": "SIGNALING",
    "SO": "STAGE_OUT",
    "ST": "STOPPED",
    "TO": "TIMEOUT",
}


@pytest.mark.parametrize("state", JobState)
def test_long_names_are_read(state: JobState) -> None:
    assert parse_state(state.value) is state


@pytest.mark.parametrize(("code", "name"), COMPACT.items())
def test_compact_names_are_read(code: str, name: str) -> None:
    assert parse_state(code) is JobState(name)


@pytest.mark.parametrize("state", [state for state in JobState if len(state.value) > 10])
def test_words_cut_at_sacct_s_column_width_are_read(state: JobState) -> None:
    assert parse_state(state.value[:9] + "+") is state


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("CANCELLED by 1000", JobState.CANCELLED),
        ("CANCELLED by somebody else", JobState.CANCELLED),
        ("CANCELLED+", JobState.CANCELLED),
        ("OUT_OF_ME+", JobState.OUT_OF_MEMORY),
        (" RUNNING \n", JobState.RUNNING),
        ("completed", JobState.COMPLETED),
        ("pd", JobState.PENDING),
    ],
)
def test_what_slurm_prints_around_a_state_does_not_matter(text: str, state: JobState) -> None:
    assert parse_state(text) is state


@pytest.mark.parametrize("text", ["", " ", "?", "NEW_IN_2030", "XX", "S+", "RE+", "+", "NONE", "PENDING,HELD"])
def test_unknown_and_ambiguous_words_are_no_state(text: str) -> None:
    assert parse_state(text) is None


@pytest.mark.parametrize(
    "name",
    [
        "COMPLETING",
        "STAGE_OUT",
        "REQUEUED",
        "REQUEUE_HOLD",
        "SPECIAL_EXIT",
        "SUSPENDED",
        "STOPPED",
        "REVOKED",
        "PENDING",
    ],
)
def test_a_job_that_is_not_quite_over_is_not_terminal(name: str) -> None:
    assert JobState(name) not in TERMINAL


def test_base_states_but_three_are_terminal() -> None:
    base = list(JobState)[:12]
    assert set(base) - {JobState.PENDING, JobState.RUNNING, JobState.SUSPENDED} == TERMINAL


def test_a_state_is_its_name_wherever_text_is_wanted() -> None:
    state = JobState.OUT_OF_MEMORY
    assert str(state) == "OUT_OF_MEMORY"
    assert f"{state:>15}" == "  OUT_OF_MEMORY"
    assert json.loads(json.dumps([state])) == ["OUT_OF_MEMORY"]
    assert "OUT_OF_MEMORY" in TERMINAL


def test_a_state_stays_itself_through_pickling_and_copying() -> None:
    assert pickle.loads(pickle.dumps(JobState.FAILED)) is JobState.FAILED
    assert copy.deepcopy(JobState.FAILED) is JobState.FAILED
