"""The operator's way in: HTTP+JSON on a UNIX socket, and the lock that says whether a daemon lives."""
