"""The pages: README.md and all of docs/, whose snippets run here as their readers would run them.

Blocks of a page run in order, in one process, with a home, a folder and, on the cluster, a user `me` of their own.

    ```python                   is run; a block `text` right below it is what it prints
    ```console                  its lines behind "$ " are run by bash, the others are what they print; ^C interrupts
    ```python title="sweep.py"  is a file of that name; so are toml, yaml, ini and bash
    <!-- not run: because … --> before a block that cannot be run
    <!-- of the tables below, what is in the second column is run -->
    <!-- up to here no cluster is needed -->

In what is printed "..." stands for anything, and ages, blanks and rulers are not compared; a block whose output shows a
Traceback raises. `world.py` says what the names of the pages are here, `setups.py` what some of them take for granted.
"""
