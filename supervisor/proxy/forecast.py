"""How long a newcomer would wait, from how long requests have taken. Pure.

With ``slots`` servers that take ``mean`` seconds each, whoever comes behind ``ahead`` others waits for about
``ahead x mean / slots`` (Little's law, for a full house). The mean is exponentially weighted: loads change by the
minute. A forecast is only made from enough samples, and nobody is refused on a guess.
"""

WEIGHT = 0.1  # of the newest sample: about the last twenty count
MIN_SAMPLES = 10


class ServiceTimes:
    """Of one model. Seconds."""

    def __init__(self) -> None:
        self._mean_s = 0.0
        self._samples = 0

    def __repr__(self) -> str:
        return f"<ServiceTimes {self._mean_s:.3f} s over {self._samples}>"

    def note(self, seconds: float) -> None:
        self._samples += 1
        weight = max(WEIGHT, 1.0 / self._samples)  # the first ones weigh the same
        self._mean_s += weight * (seconds - self._mean_s)

    def wait_s(self, ahead: int, slots: int) -> float | None:
        """For one behind ``ahead`` others, running or waiting; None: not known yet."""
        if self._samples < MIN_SAMPLES:
            return None
        return self._mean_s * max(0, ahead - slots + 1) / max(1, slots)
