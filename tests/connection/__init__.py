"""What a lost connection must not do, whatever kind of connection it was."""
