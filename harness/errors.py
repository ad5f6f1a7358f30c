"""Errors that end a command with one message, and the exit status each stands for."""

from __future__ import annotations


class PackbenchError(Exception):
    """Stop with one message that says what was given, what was expected and what to do next."""

    exit_status = 2


class BadInput(PackbenchError, ValueError):
    """Refuse an argument, a file or a spec that cannot be used as given."""


class Infrastructure(PackbenchError, RuntimeError):
    """Report that the machine or a worker, not the input, kept a result from being measured."""

    exit_status = 4


class BudgetTooSmall(Exception):
    """Say that no configuration of a method fits, and the least bytes per item that one would need."""

    def __init__(self, least: float, reason: str = "") -> None:
        self.least = least
        self.reason = reason
        super().__init__(f"needs at least {least:.2f} bytes per item" + (f": {reason}" if reason else ""))


class Disqualified(Exception):
    """Say that a method broke one of the three rules, so that its figures do not count."""
