"""Starts one of the programs of this package: `python start.py job|pilot|worker ARGUMENTS`.

On the cluster it lies beside the package. Python puts the folder of a script first in `sys.path`; with `-c` that would
be the current folder, and an account that can write there could have its modules imported before ours.
"""

import sys

if __name__ == "__main__":
    folder = __file__.rpartition("/")[0]
    if sys.path[:1] != [folder]:  # PYTHONSAFEPATH
        sys.path.insert(0, folder)
    program = sys.argv.pop(1)
    # Before the program is imported: what it imports comes from where it should.
    __import__("slurmfutures_remote.modules", fromlist=["set_path"]).set_path(keep=program == "pilot")
    __import__("slurmfutures_remote." + program, fromlist=["main"]).main()
