"""How long work tells what it does; the command draws it, tests collect it."""

from typing import Protocol


class Progress(Protocol):
    @property
    def terminal(self) -> bool:
        """Whether stderr is a terminal that may be drawn on."""

    def say(self, text: str) -> None:
        """A new phase, or something worth knowing, in one line."""

    def step(self, done: int, total: int) -> None:
        """`done` of `total` compile steps are over."""


class Silent:
    terminal = False

    def say(self, text: str) -> None:
        """Nothing is drawn."""

    def step(self, done: int, total: int) -> None:
        """Nothing is drawn."""
