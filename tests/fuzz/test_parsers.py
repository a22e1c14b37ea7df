"""Any bytes give a value or an error of the parser's own, within a second, and within a bound on memory."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.harness import LARGE, Parser, check
from tests.fuzz.inputs import TOKENS, TOKENS_INSIDE, inputs
from tests.fuzz.modules import import_all
from tests.fuzz.subjects import PARSERS

import_all()
EXAMPLES = int(os.environ.get("SLURMFUTURES_FUZZ", "200"))  # inputs of each parser

every_parser = pytest.mark.parametrize("parser", PARSERS, ids=str)


@every_parser
@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of an input that is told because it failed
@settings(
    derandomize="SLURMFUTURES_FUZZ" not in os.environ,  # new inputs are for who looks for faults, not for CI
    max_examples=EXAMPLES,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    report_multiple_bugs=False,
)
@given(data=st.data())
def test_any_input_gives_a_value_or_an_error_of_its_own(parser: Parser, tmp_path: Path, data: st.DataObject) -> None:
    common = TOKENS_INSIDE if parser.writes else TOKENS
    check(parser, data.draw(inputs(parser.seeds, parser.tokens, parser.more, common)), tmp_path)


@every_parser
def test_what_is_valid_is_read(parser: Parser, tmp_path: Path) -> None:
    for seed in parser.seeds:
        outcome = check(parser, seed, tmp_path)
        assert not isinstance(outcome, Exception), f"{parser} refused {seed!r}: {outcome!r}"


@every_parser
def test_a_large_input_takes_no_more_than_its_share(parser: Parser, tmp_path: Path) -> None:
    thorough = EXAMPLES > 1000
    common = (TOKENS_INSIDE if parser.writes else TOKENS) if thorough else ()
    pieces = [piece for piece in (*parser.seeds, *parser.tokens, *common) if piece]
    large = [parser.seeds[0] + piece * (LARGE // len(piece)) for piece in pieces]
    for piece in parser.repeated:
        large += [start + piece * (LARGE // len(piece)) for start in (b"", *parser.seeds[:1])]
    for data in dict.fromkeys([*large, *parser.large]):
        check(parser, data, tmp_path)
