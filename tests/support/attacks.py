"""What was attacked and fell once, row by row, and the tests that prove that it holds now.

A row is one kind of attack. `python -m tests.support.attacks` prints the table.
"""

ROWS = {
    1: "a death whose evidence the client wrote",
    2: "poison that differs by a byte each time",
    3: "an innocent question quarantined for everybody",
    4: "a model file that writes the configuration",
    5: "files of somebody else that are believed",
    6: "large JSON before anybody asks who it is",
    7: "slow heads and slow bodies that take all places",
    8: "parameters and sizes beyond reason",
    9: "one request that is many sequences",
    10: "web pages of other origins, and rebound names",
    11: "tokens that nobody counted",
    12: "tables that clients fill",
    13: "silent connections under TLS",
    14: "loopback believed behind a proxy",
    15: "escapes that reach a terminal",
    16: "streams that outlive their key",
    17: "a cookie that is enough to be admin",
    18: "other clients pushed out of the access log",
}
