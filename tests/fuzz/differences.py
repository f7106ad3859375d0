"""Where this wire and h11 may part, each with its reason. Anything else is a finding.

Both tables are of patterns on the raw bytes: coarse, but a difference whose bytes match none of them is new.
"""

import re

# h11 reads a request there, this wire refuses it.
STRICTER = (
    ("a bare LF ends a line for h11, and for some proxy in front it does not (RFC 9112, 2.2)", rb"(?<!\r)\n"),
    ("a bare CR inside a line (RFC 9112, 2.2)", rb"\r(?!\n)"),
    ("a folded line: obsolete, and read differently (RFC 9112, 5.2)", rb"\r\n[ \t]"),
    ("h11 leaves the version to its user", rb" HTTP/(?!1\.[01]\r)"),
    ("HTTP/1.0 knows no Transfer-Encoding; h11 takes it", rb"(?i) HTTP/1\.0\r\n(?s:.*)transfer-encoding"),
    ("equal lengths twice, or a list of them: h11 makes them one", rb"(?i)content-length:(?s:.*)(,|content-length:)"),
    ("a length together with a coding: h11 believes the coding", rb"(?i)content-length(?s:.*)transfer-encoding"),
    ("the same, the other way round", rb"(?i)transfer-encoding(?s:.*)content-length"),
    ("a tab behind the coding", rb"(?i)chunked[ \t]*\t[ \t]*\r\n"),
    ("control characters in a value: h11 lets most through (RFC 9110, 5.5)", rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"),
    ("a target that is neither a path nor a URL (RFC 9112, 3.2)", rb"(?:^|\n)[A-Z]+ (?![/*])[^ ]* HTTP/"),
    ("CONNECT wants a host and a port", rb"CONNECT "),
    ("a method llhttp does not know", rb"(?:^|\n)(?!(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|TRACE) )[^ \r\n]* [^\r\n]* HTTP/"),
    ("HTTP/2's greeting", rb"PRI \* HTTP/2"),
    ("a chunk's extension: h11 does not look at it", rb"\r\n[0-9A-Fa-f]+[ \t]*;"),
    (
        "framing or connection fields among trailers, where h11 does not look (RFC 9110, 6.5.1)",
        rb"(?i)\n0+[^\r\n]*\r\n(?s:.*)(transfer-encoding|content-length|connection|upgrade)[ \t]*:",
    ),
    (
        "a Host that is no host and port: h11 leaves it to its user (RFC 9110, 7.2)",
        rb"(?i)\nhost:[ \t]*[^\r\n]*[^\r\n0-9A-Za-z.:_~!$&'()*+,;=\[\]%-]|\nhost:[ \t]*[^\r\n]*[:%\[\]]",
    ),
    ("white space behind a chunk's size", rb"\r\n[0-9A-Fa-f]+[ \t]+\r\n"),
    ("something in a target that a URL does not have", rb"(?:^|\n)[A-Z]+ [^ ]*[^ !$%&'()*+,./0-9:;=?@A-Z_a-z~-][^ ]* HTTP/"),
)  # fmt: skip

# This wire reads a request there, h11 refuses it. It is passed on re-written, so llama-server never sees the difference.
_LINE = rb"[A-Z]+ +\S+ +HTTP/1"
LAXER = (
    (
        "line ends before a request are skipped, a lone CR or LF too (RFC 9112, 2.2: robustness)",
        rb"(^|\r\n\r\n)[\r\n]+" + _LINE + rb"|[^\r\n](\r\n|\r|\n)" + _LINE,
    ),
    (
        "several spaces in the request line (RFC 9112, 3: words may be parted by any number)",
        rb"(^|[^A-Z ])[A-Z]+( {2,}\S+ +| +\S+ {2,})HTTP/1",
    ),
)


def reason(raw: bytes, table: tuple[tuple[str, bytes], ...]) -> str | None:
    """The first that fits."""
    return next((why for why, pattern in table if re.search(pattern, raw)), None)
