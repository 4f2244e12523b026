"""What may come instead of an answer, as types to catch; the table client.retry.RULES says which one when."""

from __future__ import annotations

from typing import ClassVar

from cma_clip.command import Failure


class ClassifierError(Failure):
    """A product could not be classified.

    Attributes:
        code: gRPC's status name, such as INVALID_ARGUMENT, UNAVAILABLE or DEADLINE_EXCEEDED.
        message: one plain line.
        ends_run: whether all other products would fare the same, so that a batch tool should stop.
    """

    ends_run: ClassVar[bool] = False

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class InvalidProduct(ClassifierError):
    """The product itself is refused, and would be by any server.

    Attributes:
        refusal: why, such as IMG_TRUNCATED (model.refusal.Code lists them); None where it has no code.
    """

    def __init__(self, code: str, message: str, refusal: str | None = None) -> None:
        super().__init__(code, message)
        self.refusal = refusal


class ServerUnavailable(ClassifierError):
    """No server answers: it is down, stopping, or not ready yet."""

    ends_run = True


class ServerBusy(ClassifierError):
    """The server sheds load: its queue is full, or the product waited in it for too long."""

    ends_run = True


class DeadlineExceeded(ClassifierError):
    """No answer in the time given; the server may hang."""


class ServerFailed(ClassifierError):
    """The server broke over this product, or one of its python processes is dead."""


class LabelSetChanged(ClassifierError):
    """The answer is of another label set than the pinned one."""

    ends_run = True


class Misconfigured(ClassifierError):
    """What no retry mends: TLS, a restricted protocol, a missing permission, an unknown model."""

    ends_run = True
