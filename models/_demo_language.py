"""The demo model's language: its words, which word may follow which, and the tokenizer for them.

Invariant: every word below is exactly one token, and each belongs to one class only. So the last token alone
says what may come next, and a bigram model writes grammatical sentences.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise

BOS, TURN, EOS = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
THINK, END_THINK = "<think>", "</think>"
FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
SPECIALS = (BOS, TURN, EOS, THINK, END_THINK, FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE)
SHOWN_SPECIALS = frozenset({THINK, END_THINK})  # part of the text; the others are control tokens

QUOTE = '"'


def _spaced(words: str) -> tuple[str, ...]:
    return tuple(" " + word for word in words.split())


_FIRST = ("The", "My", "Our", "Your")
_FIRST_OPENERS = ("Today", "Later", "Now", "Often", "Once")
_OPENERS = _spaced("Today Later Now Often Once")
_CAPITAL = _spaced("The My Our Your")
_SMALL = _spaced("the my our your")
_ACTORS = _spaced("cat dog robot captain sister server worker model fox river teacher baker sailor child")
_VERBS = _spaced(
    "watches finds writes loves follows loads checks reads remembers likes paints carries keeps wants"
)
_ARTICLES = _spaced("a every some one")
_AN = (" an",)
_PLAIN = _spaced("red small green quiet new long warm bright secret kind")
_VOWEL = _spaced("old empty early open honest easy")
_THINGS = _spaced("ball story house page letter song garden cup bridge answer question token lamp path")
_ENDS = (".", "!")
_JOINS = _spaced("and while because but")
_BEFORE, _IN, _WITH = (" before",), (" in",), (" with",)
_TIMES, _PLACES, _WAYS = (
    _spaced("noon dinner sunrise"),
    _spaced("silence spring winter"),
    _spaced("care joy patience"),
)

# Words people write in prompts: known to the tokenizer so that prompts have a likely number of tokens.
_PROMPT_WORDS: tuple[str, ...] = (
    "user",
    "system",
    "assistant",
    "Hello",
    "What",
    "How",
    "Tell",
    "Write",
    "You",
)
_PROMPT_WORDS += _spaced(
    "is are was to of for on at it this that me you about with from have how what why please"
)
_PROMPT_WORDS += _spaced(
    "tell write explain short time word name helpful assistant say give count list day world"
)

# class -> classes that may follow, each with a bonus in logits (1.6 = five times as likely as an equal)
_SENTENCE: dict[tuple[str, ...], dict[tuple[str, ...], float]] = {
    _FIRST_OPENERS: {(",",): 0},
    _OPENERS: {(",",): 0},
    (",",): {_SMALL: 0},
    _FIRST: {_ACTORS: 0},
    _CAPITAL: {_ACTORS: 0},
    _SMALL: {_ACTORS: 0},
    _ACTORS: {_VERBS: 0},
    _VERBS: {_ARTICLES: 0, _AN: 0.5},
    _ARTICLES: {_PLAIN: 0},
    _AN: {_VOWEL: 0},
    _PLAIN: {_THINGS: 0},
    _VOWEL: {_THINGS: 0},
    _THINGS: {(".",): 2.5, ("!",): 0.5, _JOINS: -1, _BEFORE: 0, _IN: 0, _WITH: 0},
    _BEFORE: {_TIMES: 0},
    _IN: {_PLACES: 0},
    _WITH: {_WAYS: 0},
    _TIMES: {(".",): 1.5, ("!",): 0, _JOINS: -1},
    _PLACES: {(".",): 1.5, ("!",): 0, _JOINS: -1},
    _WAYS: {(".",): 1.5, ("!",): 0, _JOINS: -1},
    _JOINS: {_SMALL: 0},
    ("\n", FIM_MIDDLE): {_FIRST: 0, _FIRST_OPENERS: -1},
    (END_THINK,): {("\n",): 0},
}
_NEXT_SENTENCE: dict[tuple[str, ...], float] = {_CAPITAL: 0, _OPENERS: -1}
_FOLLOWERS = {word: after for words, after in _SENTENCE.items() for word in words}


def followers(token: str) -> dict[str, float]:
    """What may follow `token` (plain text, not GPT-2's spelling), each with its bonus in logits.

    After anything that is no word of the language (a byte, a word of the prompt) a new sentence begins.
    """
    after = _FOLLOWERS.get(token, _NEXT_SENTENCE)
    return {word: bonus for words, bonus in after.items() for word in words}


def ends_sentence(token: str) -> bool:
    """Whether a reply may stop after `token`."""
    return token in _ENDS


def words() -> list[str]:
    """Every word that gets a token of its own."""
    known = dict.fromkeys(word for group in _SENTENCE for word in group)
    known |= dict.fromkeys(word for after in _SENTENCE.values() for group in after for word in group)
    known |= dict.fromkeys(_PROMPT_WORDS)
    return [word for word in known if word not in SPECIALS]


# --------------------------------------------------------------------------------------- tokenizer


def spelling() -> dict[int, str]:
    """GPT-2's reversible byte -> printable character map (openai/gpt-2, encoder.py)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(256, 512))
    return {byte: chr(byte if byte in printable else next(spare)) for byte in range(256)}


def train_merges(corpus: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding, trained until every word is one token; ties go to the later pair in code point order."""
    letters = spelling()
    split = [[letters[byte] for byte in word.encode()] for word in corpus]
    merges: list[tuple[str, str]] = []
    while counts := Counter(pair for parts in split for pair in pairwise(parts)):
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        split = [list(_merged(parts, best)) for parts in split if len(parts) > 1]
    return merges


def _merged(parts: list[str], pair: tuple[str, str]) -> Iterator[str]:
    at = 0
    while at < len(parts):
        width = 2 if tuple(parts[at : at + 2]) == pair else 1
        yield "".join(parts[at : at + width])
        at += width


def vocabulary(merges: Iterable[tuple[str, str]]) -> list[str]:
    """Tokens in GPT-2's spelling by id: the 256 bytes, the merges, the special tokens.

    Two merges may spell the same string; llama.cpp wants each string once.
    """
    return list(dict.fromkeys([*spelling().values(), *(a + b for a, b in merges), *SPECIALS]))


def plain_text(token: str) -> str:
    """A token of the vocabulary as people write it (halves of UTF-8 characters become U+FFFD)."""
    if token in SPECIALS:
        return token
    byte_of = {letter: byte for byte, letter in spelling().items()}
    return bytes(byte_of[letter] for letter in token).decode(errors="replace")
