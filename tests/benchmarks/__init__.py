"""What the project promises in numbers, measured: `python -m tests.benchmarks`.

Every measure that has a baseline is taken in turns with it, in one run on one machine, so that what the machine does
meanwhile falls on both. `rows` says what is reported and prints it, `bench` has what all measurements share, `slurm`
the bare Slurm that they are held against; the other modules have one subject each.
"""
