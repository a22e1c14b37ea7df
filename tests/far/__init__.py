"""A login node far away: real sshd's on this machine, and a relay that delays, stalls, cuts and refuses."""
