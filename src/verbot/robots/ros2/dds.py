"""The connection to DDS: newest messages in, commands out, and why a topic stays silent. Cyclone DDS does the work."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from verbot.errors import RobotError, missing
from verbot.robots.ros2.messages import dds_topic, dds_type, raw_type, ros_type
from verbot.robots.ros2.network import DdsNetwork, cyclone_xml

WAKE_S, REST_S = 0.05, 0.001  # the longest wait for a message, and the rest after one: at most 1000 wake-ups a second
MOST_ENDPOINTS = 10_000  # of a domain that are looked at to explain a silent topic
BLOCKED_S = 0.02  # how long a reliable command may wait for room
ACKNOWLEDGED_S = 0.2  # how long closing waits for the last commands to arrive
POLICIES = {2: "durability", 4: "deadline", 8: "liveliness", 10: "partition", 11: "reliability", 23: "data representation"}
_DOMAINS: WeakValueDictionary[int, Any] = WeakValueDictionary()  # one configuration for each in a process


@dataclass(frozen=True)
class Endpoint:
    """A topic as it is read or written; `depth` messages are kept where the newest alone does not do."""

    topic: str
    type: str
    reliability: str
    durability: str
    depth: int = 1

    def __str__(self) -> str:
        words = f"{self.reliability.replace('_', ' ')}, {self.durability.replace('_', ' ')}, keep last {self.depth}"
        return f"{self.topic} ({self.type}; {words})"


@dataclass(frozen=True)
class Arrival:
    """A message as bytes, when it came on the monotonic clock, and the handle of its writer."""

    data: bytes
    time_s: float
    writer: int


class DdsConnection:
    """Readers and writers of one robot, and the thread that receives. Raises `RobotError` if it cannot be opened.

    Args:
        clock: monotonic seconds.
    """

    def __init__(
        self,
        network: DdsNetwork,
        inputs: Sequence[Endpoint],
        outputs: Sequence[Endpoint],
        clock: Callable[[], float] = time.monotonic,
    ):
        self.network, self._clock, self._failure = network, clock, ""
        self._arrivals = {each.topic: deque[Arrival](maxlen=each.depth) for each in inputs}
        self.heard = Counter[str]()  # messages by topic
        self._came, self._closing = threading.Condition(), threading.Event()
        check_libraries()
        with _explained(network):
            self._open(inputs, outputs)
        self._thread = threading.Thread(target=self._receive, name="verbot-ros2", daemon=True)
        self._thread.start()

    def _open(self, inputs: Sequence[Endpoint], outputs: Sequence[Endpoint]) -> None:
        from cyclonedds.core import InstanceState, ReadCondition, SampleState, ViewState, WaitSet
        from cyclonedds.domain import DomainParticipant
        from cyclonedds.pub import DataWriter, Publisher
        from cyclonedds.sub import DataReader
        from cyclonedds.topic import Topic

        self._domain = _domain(self.network)
        self._participant = DomainParticipant(self.network.domain_id)
        self._publisher, self._waiting = Publisher(self._participant), WaitSet(self._participant)
        self._readers, self._writers = dict[str, Any](), dict[str, Any]()
        for each in inputs:
            topic = Topic(self._participant, dds_topic(each.topic), raw_type(each.type))
            reader = DataReader(self._participant, topic, qos=_qos(each, written=False))
            self._waiting.attach(ReadCondition(reader, SampleState.NotRead | ViewState.Any | InstanceState.Any))
            self._readers[each.topic] = reader
        for each in outputs:
            topic = Topic(self._participant, dds_topic(each.topic), raw_type(each.type))
            self._writers[each.topic] = DataWriter(self._publisher, topic, qos=_qos(each, written=True))

    def _receive(self) -> None:
        depths = {topic: arrivals.maxlen for topic, arrivals in self._arrivals.items()}
        try:
            while not self._closing.is_set():
                if not self._waiting.wait(int(WAKE_S * 1e9)):
                    continue
                for topic, reader in self._readers.items():
                    samples = [each for each in reader.take(depths[topic]) if each.sample_info.valid_data]
                    if samples:
                        self._keep(topic, samples)
                self._closing.wait(REST_S)
        except Exception as error:  # the loop must hear of it whatever it is: nothing is received any more
            with self._came:
                self._failure = " ".join(str(error).split()) or type(error).__name__
                self._came.notify_all()

    def _keep(self, topic: str, samples: Sequence[Any]) -> None:
        now_s = self._clock()
        with self._came:
            self.heard[topic] += len(samples)
            self._arrivals[topic] += [Arrival(each.cdr, now_s, each.sample_info.publication_handle) for each in samples]
            self._came.notify_all()

    def arrivals(self, topic: str) -> list[Arrival]:
        """The messages since the last call, oldest first. Raises `RobotError` if the receiving thread failed."""
        with self._came:
            if self._failure:
                raise RobotError(f"nothing is received from ROS 2 any more ({self._failure}); connect the robot again")
            found = list(self._arrivals[topic])
            self._arrivals[topic].clear()
        return found

    def wait(self, seconds: float) -> None:
        """Until a message comes, at most `seconds`."""
        with self._came:
            if not any(self._arrivals.values()) and not self._failure:
                self._came.wait(seconds)

    def write(self, topic: str, data: bytes) -> None:
        """Send one message. Raises `RobotError` if DDS refuses it."""
        from cyclonedds.core import DDSException

        writer = self._writers[topic]
        try:
            writer.write(writer.data_type(data))
        except DDSException as error:
            raise RobotError(
                f"no command can be sent on topic {topic} ({_reason(error)}); its subscriber may be stuck"
            ) from error

    def subscribers(self, topic: str) -> int:
        """How many matching readers an output has."""
        return int(self._writers[topic].get_publication_matched_status().current_count)

    def why_silent(self, endpoint: Endpoint) -> str:
        """What to check about an input without messages, or an output without subscribers."""
        from cyclonedds.builtin import BuiltinTopicDcpsPublication, BuiltinTopicDcpsSubscription

        entering = endpoint.topic in self._readers
        others = self._endpoints(BuiltinTopicDcpsPublication if entering else BuiltinTopicDcpsSubscription)
        here = [each for each in others if each.topic_name == dds_topic(endpoint.topic)]
        does, did = ("publishes", "published") if entering else ("subscribes to", "subscribed to")
        if not here:
            names = sorted({"/" + each.topic_name[3:] for each in others if each.topic_name.startswith("rt/")})
            near = difflib.get_close_matches(endpoint.topic, names, n=1)
            seen = f"; did you mean {near[0]}?" if near else f"; the domain has {', '.join(names[:20]) or 'no topics'}"
            return f"nobody {does} it in domain {self.network.domain_id}{seen} {_ADVICE}"
        types = sorted({ros_type(each.type_name) for each in here if each.type_name != dds_type(endpoint.type)})
        if types and len(types) == len({each.type_name for each in here}):
            return f"it is {did} as {', '.join(types)}; set type to that, or the topic to another"
        for each in here:
            if conflict := _conflict(endpoint, each.qos, entering):
                return conflict
        status = self._readers[endpoint.topic].get_requested_incompatible_qos_status() if entering else None
        if status is not None and status.total_count and status.last_policy_id in POLICIES:
            policy = POLICIES[status.last_policy_id]
            return f"a publisher offers another {policy} than is asked for; compare with ros2 topic info -v {endpoint.topic}"
        if entering and not self._readers[endpoint.topic].get_subscription_matched_status().current_count:
            return f"its publisher does not match; its definition of {endpoint.type} may be another one than ROS 2's"
        if entering:
            return "it has a publisher that sends nothing; is its driver running, and do large messages arrive (see the guide)?"
        return "its subscriber was found this moment; connect again"

    def _endpoints(self, builtin: Any) -> list[Any]:
        from cyclonedds.builtin import BuiltinDataReader

        own = self._participant.get_guid()
        found = BuiltinDataReader(self._participant, builtin).read(N=MOST_ENDPOINTS)
        return [each for each in found if each.sample_info.valid_data and each.participant_key != own]

    def close(self) -> None:
        """Send what is on its way, for a moment, and leave the domain. Safe twice."""
        from cyclonedds.core import DDSException

        self._closing.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        if self._readers or self._writers:
            with contextlib.suppress(DDSException):
                self._publisher.wait_for_acks(int(ACKNOWLEDGED_S * 1e9))
        self._readers, self._writers = {}, {}
        self._waiting = self._publisher = self._participant = self._domain = None


_ADVICE = (
    "(check with: ros2 topic list; the same ROS_DOMAIN_ID and network interface on both computers, and the same "
    "ROS_AUTOMATIC_DISCOVERY_RANGE)"
)


def check_libraries() -> None:
    """Raise `MissingDependencyError` if the packages of the extra ``ros2`` are not installed."""
    try:
        importlib.import_module("cyclonedds.core")
        importlib.import_module("rosbags.typesys")
    except ModuleNotFoundError as error:
        raise missing(error) from error


def _domain(network: DdsNetwork) -> Any:
    """The domain with this network, shared by the robots of the process. Keep it as long as its participants."""
    from cyclonedds.domain import Domain

    class OwnDomain(Domain):
        """A domain that knows its configuration."""

        network: DdsNetwork

    assert network.domain_id is not None
    found = _DOMAINS.get(network.domain_id)
    if found is None:
        found = OwnDomain(network.domain_id, cyclone_xml(network, os.environ.get("CYCLONEDDS_URI", "")))
        found.network = network
        _DOMAINS[network.domain_id] = found
    elif found.network != network:
        raise RobotError(
            f"this process is in DDS domain {network.domain_id} with other settings of the network ({found.network}); "
            "give its robots the same ones"
        )
    return found


def _qos(endpoint: Endpoint, written: bool) -> Any:
    from cyclonedds.qos import Policy, Qos

    reliable = Policy.Reliability.Reliable(int(BLOCKED_S * 1e9))
    lasting = endpoint.durability == "transient_local"
    return Qos(
        reliable if endpoint.reliability == "reliable" else Policy.Reliability.BestEffort,
        Policy.Durability.TransientLocal if lasting else Policy.Durability.Volatile,
        Policy.History.KeepLast(endpoint.depth),
        Policy.DataRepresentation(use_cdrv0_representation=True),
        *((Policy.WriterDataLifecycle(autodispose=False),) if written else ()),
    )


def _conflict(endpoint: Endpoint, other: Any, entering: bool) -> str:
    """How the qos of `other` and ours exclude each other: who reads may not ask for more than who writes offers."""
    from cyclonedds.qos import Policy

    for label, strong, theirs in (
        ("reliability", "reliable", isinstance(other[Policy.Reliability], Policy.Reliability.Reliable)),
        ("durability", "transient_local", other[Policy.Durability] == Policy.Durability.TransientLocal),
    ):
        ours = vars(endpoint)[label] == strong
        weak = "best_effort" if label == "reliability" else "volatile"
        if entering and ours and not theirs:
            return f"its publisher offers {label} {weak}, and {strong} is asked for; set {label} to {weak}"
        if not entering and theirs and not ours:
            return f"its subscriber asks for {label} {strong}, and {weak} is offered; set {label} to {strong}"
    return ""


@contextlib.contextmanager
def _explained(network: DdsNetwork) -> Iterator[None]:
    """Turn errors of DDS while a connection is opened into a `RobotError`."""
    from cyclonedds.core import DDSException

    try:
        yield
    except DDSException as error:
        where = f" on interface {network.interface!r}" if network.interface else ""
        raise RobotError(
            f"DDS domain {network.domain_id} cannot be joined{where} ({_reason(error)}); check the interface with ip address, "
            "and the environment variable CYCLONEDDS_URI"
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
