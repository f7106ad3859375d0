"""How many tokens a request will take, guessed before it is served; and how many it may have taken that does not say.

How long an answer will be is guessed by what its client had so far: others' short answers are no word on it.
"""

from collections import OrderedDict

BYTES_PER_TOKEN = 4  # of English text and JSON; settling corrects it
FIRST_OUTPUT = 256  # until an answer has been seen
WEIGHT = 1 / 16  # of the newest answer in the mean
CLIENTS_MAX = 4096  # with means of their own, some 250 bytes each; whoever asked longest ago is guessed anew


class OutputLength:
    """The mean length of a model's answers, the newest weighing most."""

    __slots__ = ("_mean",)

    def __init__(self) -> None:
        self._mean = float(FIRST_OUTPUT)

    def __repr__(self) -> str:
        return f"<OutputLength {self.tokens}>"

    @property
    def tokens(self) -> int:
        return round(self._mean)

    def learn(self, tokens: int) -> None:
        self._mean += (tokens - self._mean) * WEIGHT


def prompt_of(body_bytes: int) -> int:
    """Guessed from a body's length, for want of better."""
    return -(-body_bytes // BYTES_PER_TOKEN)


class OutputLengths:
    """The means by client and model: of those that asked most lately."""

    __slots__ = ("_means",)

    def __init__(self) -> None:
        self._means: OrderedDict[tuple[str, str], OutputLength] = OrderedDict()

    def __repr__(self) -> str:
        return f"<OutputLengths of {len(self._means)}>"

    def __len__(self) -> int:
        return len(self._means)

    def of(self, client: str, model: str) -> OutputLength:
        """Of this client's answers of this model, made if there were none."""
        key = client, model
        mean = self._means.get(key)
        if mean is None:
            mean = self._means[key] = OutputLength()
            if len(self._means) > CLIENTS_MAX:
                self._means.popitem(last=False)
        else:
            self._means.move_to_end(key)
        return mean


def estimate(
    prompt: int, max_tokens: int | None, output: OutputLength, context_size: int, sequences: int = 1
) -> int:
    """Prompt and answers together, never more than as many contexts hold; ``max_tokens``: None or -1 if not asked."""
    answer = output.tokens
    if max_tokens is not None and max_tokens >= 0:
        answer = min(answer, max_tokens)
    return min(prompt + answer * sequences, context_size * sequences)


def worst(prompt: int, max_tokens: int | None, context_size: int, sequences: int = 1) -> int:
    """What was served and did not tell: every answer as long as it may have been."""
    answer = context_size if max_tokens is None or max_tokens < 0 else min(max_tokens, context_size)
    return prompt + answer * sequences
