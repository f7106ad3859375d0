"""How the daemon says what it does. Observers never slow the observed."""
