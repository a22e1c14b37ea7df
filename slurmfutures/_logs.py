"""The loggers of this package. Their records hold text from servers, files and programs, and reach terminals."""

import logging

from ._printable import printable

_INDENT = "\n    "  # before each line of a message but the first: no line of it can pass for another record
_FORMATTER = logging.Formatter()


def get_logger(name: str) -> logging.Logger:
    """Return the logger "slurmfutures.NAME". Its records are printable for every handler."""
    logger = logging.getLogger(f"slurmfutures.{name}")
    logger.addFilter(_make_printable)  # on each logger, because filters do not see the records of child loggers
    return logger


def _make_printable(record: logging.LogRecord) -> bool:
    """Merge a record's arguments into its message, and make message and traceback printable."""
    record.msg, record.args = printable(record.getMessage()).replace("\n", _INDENT), ()
    if record.exc_info and not record.exc_text:
        record.exc_text = printable(_FORMATTER.formatException(record.exc_info))
    return True
