"""The question stage 4 of the request path asks, and the answer it gets.

Pure. The stage is the only caller; what stands behind `Policy` may be memory or a shared store.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Verdict:
    """``wait_s``: how long until the same request would be admitted; 0 when it is now."""

    admitted: bool
    wait_s: float = 0.0
    reason: str = ""


ADMITTED = Verdict(admitted=True)


class Policy(Protocol):
    def admit(self, client: str, now: float) -> Verdict:
        """Charge one request of ``client`` at monotonic second ``now``, or refuse it uncharged."""


class Unlimited:
    """Admits everybody: the policy while ``limits`` is not enforced (see `settings.NOT_YET_ENFORCED`)."""

    def admit(self, client: str, now: float) -> Verdict:
        return ADMITTED
