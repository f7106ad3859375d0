"""Is this a large prompt that is not in the child's cache? Guessed from the beginnings of the bodies it has served.

Two long prefills at once take as long as one after the other, but then both come late, and whoever is being answered waits
for each of their batches. So a large one is told apart before it is sent. The estimate is rough on purpose: a wrong
guess lets one wait a little or not, nothing else.

No body is kept. A body is hashed in blocks, each hash going into the next, so that equal hashes mean equal beginnings: a
conversation that goes on begins as it did before. What varies from one body to the next must come after the
prompt, or the prompt counts as new. An image counts by its bytes, for it takes long too.
"""

from collections import OrderedDict

from supervisor.types import KIB, MIB

# llama-server takes a prompt in batches of 2,048 tokens (-b) and decodes for the others once a batch. Below this a prompt
# costs them one longer step, at most some seconds on a slow processor; above it, several in a row.
LARGE_TOKENS = 2048
BYTES_A_TOKEN = (
    4  # of English; other languages and code have less, so their prompts count for less than they are
)
LARGE_BYTES = LARGE_TOKENS * BYTES_A_TOKEN
BLOCK_BYTES = 2 * KIB  # a quarter of what is asked about
# A million tokens, more than contexts have: what is longer will have been refused, and would only push out the others.
HASHED_BYTES = 4 * MIB
# 16 MiB of bodies, four million tokens: more than the slots' contexts and the host cache (--cache-ram) hold together for all
# but the smallest models. About 170 bytes each.
KNOWN_BLOCKS = 8192
# Their models keep no prompt for the next request.
_UNCACHED = frozenset(
    b"/embedding /embeddings /v1/embeddings /rerank /reranking /v1/rerank /v1/reranking".split()
)


class Prefills:
    """What the child has probably in its prompt cache. One for each child."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: OrderedDict[int, None] = (
            OrderedDict()
        )  # hashes of beginnings, those used last at the end

    def __repr__(self) -> str:
        return f"<Prefills: {len(self._known)} beginnings>"

    def large(self, path: bytes, body: bytes) -> bool:
        """Whether about LARGE_TOKENS of its prompt or more will have to be processed."""
        rest = len(body)
        if rest < LARGE_BYTES:
            return False
        before = _form(path)
        for at in range(0, rest - LARGE_BYTES + 1, BLOCK_BYTES):
            before = hash((before, body[at : at + BLOCK_BYTES]))
            if before not in self._known:
                return True
        return False

    def served(self, path: bytes, body: bytes) -> None:
        """It has been answered: its prompt is cached now, and used last."""
        if not LARGE_BYTES <= len(body) <= HASHED_BYTES or path in _UNCACHED:
            return
        before = _form(path)
        hashes = []
        for at in range(0, len(body) - BLOCK_BYTES + 1, BLOCK_BYTES):
            before = hash((before, body[at : at + BLOCK_BYTES]))
            hashes.append(before)
        known = self._known
        for one in reversed(hashes):  # ends are forgotten before their beginnings
            known[one] = None
            known.move_to_end(one)
        while len(known) > KNOWN_BLOCKS:
            known.popitem(last=False)

    def forget(self) -> None:
        """Another generation has an empty cache."""
        self._known.clear()


def _form(path: bytes) -> int:
    """What a chain begins with: the same body is another prompt to another endpoint, but with or without /v1."""
    return hash(path.removeprefix(b"/v1"))
