"""What a policy server says first: the version of the wire format, the robot, the policy's identity and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from verbot.errors import SpecError, WireError
from verbot.remote.codec import VERSION, decode
from verbot.spec import RobotSpec

IDENTITY_LENGTH = 256
CONTINUATIONS = ("guided", "trained", "ahead")
SHOWN = 16  # characters of an identity in messages


@dataclass(frozen=True)
class Greeting:
    """The server's first message.

    Args:
        spec: the robot that the policy was made for.
        identity: content hash of the policy; ``""`` if the server does not say.
        limits: the most that one request may hold: ``"observations"``, ``"message_bytes"``. What is missing is not limited.
        continuation: how the policy continues planned actions (`verbot.contracts.ContinuingPolicy`); ``""`` if it does not, or
            the server does not say.
    """

    spec: RobotSpec
    identity: str = ""
    limits: Mapping[str, int] = field(default_factory=dict)
    continuation: str = ""

    @staticmethod
    def read(data: bytes | str, url: str) -> Greeting:
        """Raises `WireError` unless it is the greeting of a policy server of this version."""
        record = decode(data)  # type: ignore[arg-type]
        if record.get("verbot") != VERSION:
            raise WireError(f"{url} speaks version {str(record.get('verbot'))[:40]!r} of the wire format; expected {VERSION}")
        identity, limits = record.get("identity", ""), record.get("limits", {})
        if not isinstance(identity, str) or len(identity) > IDENTITY_LENGTH or not identity.isprintable():
            raise WireError(
                f"{url} names its policy by {str(identity)[:40]!r}; expected a hash of at most {IDENTITY_LENGTH} letters"
            )
        if not isinstance(limits, dict) or not all(type(limit) is int and limit > 0 for limit in limits.values()):
            raise WireError(f"the limits of {url} are {str(limits)[:80]!r}; expected positive whole numbers by name")
        continuation = record.get("continuation", "")
        if not isinstance(continuation, str):
            raise WireError(f"{url} continues planned actions by {str(continuation)[:40]!r}; expected text")
        continuation = continuation if continuation in CONTINUATIONS else ""  # a method of a later version
        try:
            return Greeting(RobotSpec.from_json(_spec_record(record.get("spec"))), identity, limits, continuation)
        except (SpecError, TypeError, ValueError, ArithmeticError) as error:
            raise WireError(f"{url} does not say which robot its policy is for: {error}") from error

    def check_request(self, url: str, observations: int, size: int) -> None:
        """Raise `WireError` for a request of more observations or bytes than the server reads."""
        for name, unit, count in (("observations", "observations", observations), ("message_bytes", "bytes", size)):
            limit = self.limits.get(name, count)
            if count > limit:
                raise WireError(f"the request has {count} {unit}; {url} reads at most {limit}: send fewer observations at a time")

    def check_same(self, before: Greeting, url: str) -> None:
        """Raise `WireError` if another robot or policy is served than `before`."""
        if self.spec != before.spec:
            raise WireError(
                f"{url} now serves a policy for robot {self.spec.name!r}, before for {before.spec.name!r}"
                f"{' with another spec' if self.spec.name == before.spec.name else ''}; make a new RemotePolicy"
            )
        if self.identity != before.identity:
            raise WireError(
                f"{url} now serves policy {self.identity[:SHOWN] or 'unknown'!r}, "
                f"before {before.identity[:SHOWN] or 'unknown'!r}; make a new RemotePolicy"
            )


def _spec_record(record: Any) -> Mapping[str, Any]:
    """`record`, if its lists hold maps, as `RobotSpec.from_json` expects."""
    if not isinstance(record, dict):
        raise TypeError(f"its spec is {type(record).__name__}, not a map")
    for name in ("cameras", "state", "action", "groups"):
        items = record.get(name, [])
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise TypeError(f"{name!r} is not a list of maps")
    return record
