import pytest

from slurmfutures._remote.times import parse_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10", 600),
        ("10:30", 630),
        ("90:00", 5400),
        ("01:00:00", 3600),
        ("100:00:01", 360001),
        ("1-0", 86400),
        ("1-2", 93600),
        ("1-02:30", 95400),
        ("1-02:30:15", 95415),
        ("0-00:00:01", 1),
        (" 5 ", 300),
    ],
)
def test_slurm_s_formats_are_read(text: str, seconds: int) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["0", "0:00", "-1", "UNLIMITED", "infinite"])
def test_no_limit_is_none(text: str) -> None:
    assert parse_time(text) is None


@pytest.mark.parametrize(
    "text", ["", "1h", "10m", "1:2:3:4", "1-", "-5", "1-2-3", ":30", "1-0:0:0:0", "1.5", "an hour", "1:", "٣"]
)
def test_other_formats_are_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="not a time in Slurm's format"):
        parse_time(text)
