"""Deterministic answers: the text follows from the prompt alone, so a continued answer can be checked word by word.

Token *i* of the answer to a prompt is the word ``w<i>_<checksum>`` (with a space in front, except the first). A
prompt that already ends in the first *n* of its own words is continued with word *n*: that is what an exact
resume looks like. Text cut inside a word does not match and gets different words, as with the real server.
"""

from zlib import crc32

ASSISTANT = "<|im_start|>assistant\n"


def token(base: str, index: int) -> str:
    """Token `index` (from 0) of the answer to the prompt `base`."""
    checksum = crc32(base.encode("utf-8", "surrogatepass") + b"\0%d" % index) & 0xFFF
    return f"{' ' if index else ''}w{index}_{checksum:03x}"


def answer(base: str, count: int, start: int = 0) -> str:
    """Tokens `start` to `start + count` of the answer, joined."""
    return "".join(token(base, index) for index in range(start, start + count))


def split_partial(prompt: str) -> tuple[str, int]:
    """Find the answer's own beginning at the prompt's end: (prompt without it, tokens already there)."""
    at = prompt.find("w0_")
    while at >= 0:
        base, partial = prompt[:at], prompt[at:]
        count = partial.count(" ") + 1
        if partial == answer(base, count):
            return base, count
        at = prompt.find("w0_", at + 1)
    return prompt, 0


def prompt_of(given: object) -> str:
    """A prompt in any of its forms; in a mixed list, tokens are those of the answer to the text in front of them."""
    if not isinstance(given, list) or not given or not isinstance(given[0], str):
        return given if isinstance(given, str) else str(given)
    base = given[0]
    return base + "".join(one if isinstance(one, str) else token(base, one) for one in given[1:])


def token_count(text: str) -> int:
    """Tokens of a prompt: its words."""
    return max(1, len(text.split()))


def content_of(message: dict[str, object]) -> str:
    """A chat message's text, from either of its two forms."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


def render_chat(messages: list[dict[str, object]]) -> str:
    """The chat template (ChatML); a trailing assistant message is left open to be continued."""
    out: list[str] = []
    for position, message in enumerate(messages):
        text = f"<|im_start|>{message.get('role')}\n{content_of(message)}"
        is_open = position == len(messages) - 1 and message.get("role") == "assistant"
        out.append(text if is_open else text + "<|im_end|>\n")
    if not messages or messages[-1].get("role") != "assistant":
        out.append(ASSISTANT)
    return "".join(out)


def messages_in(body: dict[str, object]) -> list[dict[str, object]]:
    """The chat messages of a request body, leaving out what is none."""
    given = body.get("messages")
    return [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
