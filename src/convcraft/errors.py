"""The one error that people see: what was received, what was expected, how to fix it; and what others say."""

from __future__ import annotations


class UserError(ValueError):
    """Input that cannot be used, raised at the boundary where it enters.

    Args:
        received: what came in, quoted ("labels contain 12").
        expected: what would have been fine ("labels from 0 to 9").
        fix: what to do about it ("pass num_classes=13 or check the class folders").
    """

    def __init__(self, received: str, expected: str, fix: str) -> None:
        self.received, self.expected, self.fix = received, expected, fix
        super().__init__(f"{received}; expected {expected}. {fix}")

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str, str]]:
        """So that it survives the way from a worker process."""
        return type(self), (self.received, self.expected, self.fix)

    def as_dict(self) -> dict[str, str]:
        return {"received": self.received, "expected": self.expected, "fix": self.fix}


def first_line(error: BaseException) -> str:
    """What another library's exception says, in one line; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
