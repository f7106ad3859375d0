"""Unstreamed answers, asked for as streams and taken together here, so that leaving ends them.

llama-server stops a stream within milliseconds of its connection's end, but an unstreamed generation only
when nothing else runs for a second (LLAMA_SERVER 0.5). The answer taken together is byte for byte the one
llama-server would have sent; where that cannot be, `as_stream` says None and the request goes as it is.

What a request cannot show: with llama-server's own `--reverse-prompt`, `logprobs` of text completions hold
the stop string's tokens too; with a verbosity above 9 no stream is believed. And a response (/v1/responses)
does not say what ended it: if that was a full context or llama-server's own `-n`, not a limit in the request,
text held back at that moment (half a stop string) is missing unnoticed.
"""

from supervisor.proxy.assembly.answer import MAX_STREAM_BYTES, Assembly
from supervisor.proxy.assembly.ask import as_stream, with_progress
from supervisor.proxy.assembly.faults import Incomplete, TooLong, Unknown, Unsure

__all__ = [
    "MAX_STREAM_BYTES",
    "Assembly",
    "Incomplete",
    "TooLong",
    "Unknown",
    "Unsure",
    "as_stream",
    "with_progress",
]
