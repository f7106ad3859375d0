"""How taking an answer together may fail. None of these reaches a client: the caller decides what to do instead.

Exception
├── TooLong      more bytes than an answer may have
└── Incomplete   the stream ended before its answer did
    └── Unsure   it ended properly, but may not hold all that the unstreamed answer would
        └── Unknown  this llama-server writes events in another way than the one this was made for
"""


class TooLong(Exception):
    """The stream is longer than an answer may be."""


class Incomplete(Exception):
    """The stream has no proper last event: llama-server was cut off."""


class Unsure(Incomplete):
    """The stream is whole, but cannot be shown to hold everything. Ask once more, unstreamed.

    Catch it before Incomplete: asking again as a stream would end the same way.

    Attributes:
        probable: the JSON body if nothing is missing after all; None where there is none.
    """

    def __init__(self, why: str, probable: bytes | None = None) -> None:
        super().__init__(why)
        self.probable = probable


class Unknown(Unsure):
    """An event is not of the form known here. Another one will not be either: ask this server unstreamed."""
