"""Completions of text: llama-server's own form and OpenAI's. Pure.

Here every token whose characters are whole makes an event, so what is missing can be counted: the last
token's event must have come, and where the token limit ended the answer, with text (what looks like the
beginning of a stop string is held back and, at the limit, never sent).
"""

import re
from collections import defaultdict
from typing import Any

from supervisor.proxy.assembly.events import DONE, STRING, predicted_n
from supervisor.proxy.assembly.faults import Incomplete, Unknown, Unsure

_NATIVE = re.compile(
    r'\{"index":(\d+),"content":"' + STRING + r'","tokens":\[[-\d,]*\],"stop":false,"id_slot":-?\d+,'
    r'"tokens_predicted":(\d+),"tokens_evaluated":\d+(?:,"timings":\{[^{}]*\})?'
    r'(?:,"completion_probabilities":\[(.*)\])?\}\Z',
)
_NATIVE_END = re.compile(r'\{"index":(\d+),"content":"","tokens":\[\],("id_slot":.*,"stop":true,.*)\}\Z')
_NATIVE_FACTS = re.compile(r'"tokens_predicted":(\d+),.*"n_probs":(\d+),.*"stop_type":"([a-z]+)"')
_NATIVE_KEYS = re.compile(r'"completion_probabilities":|"__verbose":')
_OPENAI = re.compile(
    r'\{"choices":\[\{"text":"' + STRING + r'","index":(\d+),"logprobs":(null|\{"content":\[.*\]\}),'
    r'"finish_reason":(null|"[a-z]+")\}\],("created":.*)\}\Z'
)
_OPENAI_MADE = re.compile(r'"usage":\{"completion_tokens":(\d+),')
_LOGPROBS = slice(len('{"content":['), -len("]}"))


class _Text:
    """One prompt's answer so far. What is text is raw JSON."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.probabilities: list[str] = []
        self.count = 0  # tokens made when the last event was
        self.end = ""  # the last event, less what is put in its place
        self.finish = ""
        self.made = 0  # tokens, by the last event
        self.probabilities_asked = False

    def doubt(self) -> str | None:
        """Why something may be missing, if so."""
        if self.made and self.count != self.made:
            return "the last token brought no event"
        if self.made and self.finish in {"limit", "length"} and not self.pieces[-1]:
            return "the last token before the limit brought no text"
        if self.probabilities_asked and len(self.probabilities) != len(self.pieces):
            return "a token has no probabilities"
        if self.probabilities_asked and self.finish == "word":
            return "the probabilities of a stop string's tokens would be cut off"
        return None


def native(events: list[str], parsed: dict[str, Any]) -> str:
    """The unstreamed answer's JSON: an object, or an array of them for several.

    Raises:
        Incomplete: the stream did not come to its end.
        Unsure: something may be missing.
    """
    texts: defaultdict[int, _Text] = defaultdict(_Text)
    for payload in events:
        if found := _NATIVE.match(payload):
            text = texts[int(found.group(1))]
            text.pieces.append(found.group(2))
            text.count = int(found.group(3))
            if found.group(4):
                text.probabilities.append(found.group(4))
        elif found := _NATIVE_END.match(payload):
            _native_end(texts[int(found.group(1))], found.group(2))
        else:
            raise Unknown("an event of unknown form")
    answers = [_native_text(index, texts[index]) for index in _indices(texts)]
    return _believed(texts, answers[0] if len(answers) == 1 else f"[{','.join(answers)}]")


def _native_end(text: _Text, end: str) -> None:
    facts = _NATIVE_FACTS.search(end)
    if facts is None or end.count('"stream":true') != 1 or _NATIVE_KEYS.search(end):
        raise Unknown("a last event of unknown form")
    # The settings tell how it was asked; as asked by the client it was no stream.
    end = end.replace('"stream":true', '"stream":false')
    text.end = end.replace('"reasoning_in_content":true', '"reasoning_in_content":false')
    text.made, text.finish = int(facts.group(1)), facts.group(3)
    text.probabilities_asked = facts.group(2) != "0"


def _native_text(index: int, text: _Text) -> str:
    content, probabilities = "".join(text.pieces), ",".join(text.probabilities)
    more = f',"completion_probabilities":[{probabilities}]' if probabilities else ""
    return f'{{"index":{index},"content":"{content}","tokens":[],{text.end}{more}}}'


def openai(events: list[str], parsed: dict[str, Any]) -> str:
    """The unstreamed answer's JSON.

    Raises:
        Incomplete: the stream did not come to its end.
        Unsure: something may be missing.
    """
    if events[-1] != DONE:
        raise Incomplete("the stream has no [DONE]")
    texts: defaultdict[int, _Text] = defaultdict(_Text)
    asked = bool(parsed.get("n_probs") or parsed.get("logprobs"))
    for payload in events[:-1]:
        found = _OPENAI.match(payload)
        if found is None or '"__verbose":' in found.group(5):
            raise Unknown("an event of unknown form")
        text = texts[int(found.group(2))]
        text.probabilities_asked = asked
        if found.group(4) == "null":
            text.pieces.append(found.group(1))
            text.count = predicted_n(found.group(5))
            if found.group(3) != "null":
                text.probabilities.append(found.group(3)[_LOGPROBS])
        else:
            _openai_end(text, found.group(4), found.group(5))
    indices = _indices(texts)
    choices = ",".join(_openai_text(index, texts[index]) for index in indices)
    return _believed(texts, f'{{"choices":[{choices}],{texts[0].end}}}')


def _openai_end(text: _Text, finish: str, end: str) -> None:
    made = _OPENAI_MADE.search(end)
    if made is None:
        raise Unknown("a last event without usage")
    text.end, text.finish, text.made = end, finish.strip('"'), int(made.group(1))


def _openai_text(index: int, text: _Text) -> str:
    content, probabilities = "".join(text.pieces), ",".join(text.probabilities)
    logprobs = f'{{"content":[{probabilities}]}}' if probabilities else "null"
    return f'{{"text":"{content}","index":{index},"logprobs":{logprobs},"finish_reason":"{text.finish}"}}'


def _indices(texts: dict[int, _Text]) -> list[int]:
    indices = sorted(texts)
    if not indices or indices != list(range(len(indices))) or any(not texts[i].end for i in indices):
        raise Incomplete("an answer has no end")
    return indices


def _believed(texts: dict[int, _Text], answer: str) -> str:
    for text in texts.values():
        if why := text.doubt():
            raise Unsure(why, answer.encode())
    return answer
