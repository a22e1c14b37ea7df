"""What lies in a `work_dir`, from the command line: `slurmfutures status`, `logs`, `cancel` and `clean`.

Each command opens a connection of its own, asks the agent, and shows what that says: as tables, or as one JSON document
whose keys docs/command-line.md promises. `place` says where to look, `table` how things look on a terminal.
"""
