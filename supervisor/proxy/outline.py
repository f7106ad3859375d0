"""The structure of a large body, made while its bytes come: the same JSON with its long strings left out. Pure.

Read at once, 31 MiB of JSON are up to 950 MiB of objects and more than a second in which nobody else is served. What
decides anything about a request is short, so long strings (texts, images) are only checked, piece by piece as
they arrive, and a mark with their place stands for them; elements are counted, and a body of more than a reader here
is willing to make objects of is refused before it is whole. What is left is read in milliseconds (`asked`).

What is checked of a string is what llama-server's reader refuses: control characters, unknown escapes, halves of surrogate pairs, and
bytes that are no UTF-8. All else is found when the outline is read.
"""

import codecs
import re

from supervisor.errors import BadRequest, BodyTooLarge, CallerError
from supervisor.types import MIB

LONG_BYTES = 64  # of a string: names of parameters, roles and models are shorter
# In units of about 25 ns of the reader: a list or object costs more than a number, a member's name is kept.
MAX_WEIGHT = 400_000
CONTAINER_WEIGHT, MEMBER_WEIGHT, ELEMENT_WEIGHT = 8, 4, 1
MAX_OUTLINE_BYTES = 4 * MIB  # numbers, short strings and white space, which take time to pass over as well
MARK = "\0"  # with which a left-out string's place begins; the place is in the body, so a forged one leads nowhere else
_CONTROLS = bytes(range(0x20))
_ESCAPE_BYTES = 12  # of the longest: two halves of a surrogate pair
_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_HIGH = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\Z")
_WRONG = re.compile(rb"\\(?![bfnrt/]|u[0-9a-fA-F]{4})|\\u[dD][89a-fA-F]")


class Outline:
    """Fed with the body's pieces in order. ``weight``: of the elements so far; ``trouble``: why it cannot be taken."""

    __slots__ = (
        "_at",
        "_carry",
        "_decoder",
        "_inside",
        "_long",
        "_pieces",
        "_size",
        "_start",
        "trouble",
        "weight",
    )

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._carry = b""  # an escape that is not yet whole
        self._at = 0  # where in the body the carry begins
        self._inside = False  # a string
        self._start = 0  # where that string begins, if it came in an earlier piece
        self._long = False  # and is left out
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.weight = 0
        self.trouble: CallerError | None = None

    def __repr__(self) -> str:
        return f"<Outline {self._size} bytes, weight {self.weight}>"

    def feed(self, piece: bytes) -> None:
        """The next bytes of the body. Does nothing once there is trouble."""
        if self.trouble is None:
            try:
                self._feed(self._carry + piece if self._carry else piece, final=False)
            except CallerError as error:
                self.trouble = error.with_traceback(None)  # whose frames hold the piece
                self._pieces.clear()
                self._carry = b""

    def text(self) -> bytes:
        """The outline of the whole body, which has been fed.

        Raises:
            BadRequest: it is not JSON.
            BodyTooLarge: it has too many elements.
        """
        if self.trouble is None and self._carry:
            self._feed(self._carry, final=True)
        if self.trouble is not None:
            raise self.trouble
        if self._inside:
            raise BadRequest("the body is not JSON: a string has no end")
        return b"".join(self._pieces)

    def _feed(self, data: bytes, *, final: bool) -> None:
        self._check_utf8(data, final=final)
        masked = data
        if b"\\" in data:  # of the same length, without quotes and backslashes that are escaped
            masked = data.replace(b"\\\\", b"..").replace(b'\\"', b"..")
            end = len(data) if final else _whole(masked)
            self._carry, data, masked = data[end:], data[:end], masked[:end]
        else:
            self._carry = b""
        parts = masked.split(b'"')
        if (
            not final
            and len(parts) > 1
            and (len(parts) % 2 == 0) != self._inside
            and len(parts[-1]) <= LONG_BYTES
        ):
            end = len(data) - len(parts.pop()) - 1  # a string that may be a short one: when the rest is there
            self._carry, data = data[end:] + self._carry, data[:end]
        first = 0 if self._inside else 1
        self._weigh(b"".join(parts[1 - first :: 2]) if len(parts) > 1 or first else b"")
        strings = parts[first::2]
        if not self._inside and len(parts) % 2 and max(map(len, strings), default=0) <= LONG_BYTES:
            self._keep(data)  # short strings only, all of them whole
        else:
            self._leave_out(data, parts)
        self._at += len(data)

    def _check_utf8(self, data: bytes, *, final: bool) -> None:
        fresh = data[len(self._carry) :]
        if final or not fresh.isascii() or self._decoder.getstate()[0]:
            try:
                self._decoder.decode(b"" if final else fresh, final)
            except UnicodeDecodeError:
                raise BadRequest("the body is not JSON: it is not UTF-8") from None

    def _weigh(self, outside: bytes) -> None:
        self.weight += (
            CONTAINER_WEIGHT * (outside.count(b"[") + outside.count(b"{"))
            + MEMBER_WEIGHT * outside.count(b":")
            + ELEMENT_WEIGHT * outside.count(b",")
        )
        if self.weight > MAX_WEIGHT:
            raise BodyTooLarge(
                f"the body has more elements than are read of one request (lists and objects count {CONTAINER_WEIGHT}, "
                f"members {MEMBER_WEIGHT}, all else {ELEMENT_WEIGHT}; {MAX_WEIGHT} together)",
                hint="send it in several requests",
            )

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_OUTLINE_BYTES:
            raise BodyTooLarge(
                f"the body has more than {MAX_OUTLINE_BYTES} bytes of numbers, short texts and white space",
                hint="send it in several requests",
            )
        self._pieces.append(data)

    def _leave_out(self, data: bytes, parts: list[bytes]) -> None:
        """Go through it string by string. ``parts``: what is between the quotes, inside and outside in turn."""
        kept: list[bytes] = []
        position = 0
        last = len(parts) - 1
        for index, part in enumerate(parts):
            end = position + len(part)
            if not self._inside:
                kept.append(data[position:end])
            else:
                self._string(data[position:end], part, kept, self._at + position, whole=index < last)
            if index < last:
                self._inside = not self._inside
                if self._inside:
                    self._start, self._long = self._at + end + 1, False
            position = end + 1
        self._keep(b"".join(kept))

    def _string(self, raw: bytes, masked: bytes, kept: list[bytes], at: int, *, whole: bool) -> None:
        """A string, or what of it is in this piece. ``whole``: it ends here."""
        begins = at == self._start
        if whole and begins and len(raw) <= LONG_BYTES:
            kept.append(b'"%b"' % raw)
            return
        _check(raw, masked)
        if whole:
            kept.append(b'"\\u0000%d:%d"' % (self._start, at + len(raw)))


def _whole(masked: bytes) -> int:
    """Up to where no escape is cut in two."""
    end = len(masked)
    found = masked.find(b"\\", max(0, end - _ESCAPE_BYTES))
    if found < 0:
        return end
    return found - 6 if _HIGH.match(masked[max(0, found - 6) : found]) else found


def _check(raw: bytes, masked: bytes) -> None:
    """Raises BadRequest: no reader takes this inside a string."""
    if len(raw.translate(None, _CONTROLS)) != len(raw):
        raise BadRequest("the body is not JSON: a control character in a string")
    if b"\\" in masked and _WRONG.search(_PAIR.sub(b"", masked) if b"\\u" in masked else masked):
        raise BadRequest("the body is not JSON: an invalid escape in a string")


def place(mark: str) -> slice | None:
    """Where in the body the text is that ``mark`` stands for; None: it is a text itself."""
    if mark[:1] != MARK:
        return None
    start, colon, end = mark[1:].partition(":")
    if not (colon and start.isdecimal() and end.isdecimal() and len(mark) < LONG_BYTES):
        return None
    return slice(int(start) - 1, int(end) + 1)
