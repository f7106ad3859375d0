"""How many tokens a request will take, guessed before it is served."""

BYTES_PER_TOKEN = 4  # of English text and JSON; settling corrects it
FIRST_OUTPUT = 256  # until an answer has been seen
WEIGHT = 1 / 16  # of the newest answer in the mean


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


def estimate(prompt: int, max_tokens: int | None, output: OutputLength, context_size: int) -> int:
    """Prompt and answer together, never more than the context holds; ``max_tokens``: as asked, None or -1 if not."""
    answer = output.tokens
    if max_tokens is not None and max_tokens >= 0:
        answer = min(answer, max_tokens)
    return min(prompt + answer, context_size)
