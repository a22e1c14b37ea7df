"""Everything that is fuzzed, one module for each kind of input."""

from tests.fuzz.harness import Parser
from tests.fuzz.subjects import (
    checkpoints,
    configs,
    greetings,
    hosts,
    keys,
    logins,
    options,
    payloads,
    pilots,
    scripts,
    sessions,
    ships,
    slurm,
    spools,
    trees,
    wires,
)

PARSERS: tuple[Parser, ...] = tuple(
    parser
    for module in (
        checkpoints,
        configs,
        greetings,
        hosts,
        keys,
        logins,
        options,
        payloads,
        pilots,
        scripts,
        sessions,
        ships,
        slurm,
        spools,
        trees,
        wires,
    )
    for parser in module.PARSERS
)
