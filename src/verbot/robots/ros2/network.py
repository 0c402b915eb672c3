"""Where a ROS 2 robot is on the network, and Cyclone DDS's configuration for it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from verbot.errors import ConfigError
from verbot.ranges import NumberRange, check_ranges

DOMAIN = NumberRange(0, 232, whole=True)  # the ports of higher ones are beyond 65535
ADDRESS = re.compile(r"[A-Za-z0-9.:%_-]+")
RECEIVE_BUFFER = "8MiB"  # asked for, not demanded: pictures come in many packets
LARGEST_SAMPLE = "256MiB"


@dataclass(frozen=True)
class DdsNetwork:
    """Where to find the robot. What is None is taken from the environment, as nodes of ROS 2 do.

    Args:
        domain_id: ``ROS_DOMAIN_ID``, or 0.
        interface: name of the network interface, such as ``"eth0"`` or ``"lo"``; by default Cyclone DDS chooses one.
        discovery: ``"subnet"``, or ``"localhost"`` for this machine alone, without multicast (``ROS_AUTOMATIC_DISCOVERY_RANGE``,
            ``ROS_LOCALHOST_ONLY``).
        peers: addresses to look at besides (``ROS_STATIC_PEERS``).
    """

    domain_id: int | None = None
    interface: str | None = None
    discovery: Literal["subnet", "localhost"] | None = None
    peers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_ranges(self, domain_id=DOMAIN)
        for each in (*((self.interface,) if self.interface is not None else ()), *(self.peers or ())):
            if not ADDRESS.fullmatch(each):
                raise ConfigError(f"network is {each!r:.100}; expected the name of an interface or an address")

    def resolved(self, environment: Mapping[str, str] = os.environ) -> DdsNetwork:
        """Without None but for `interface`. Raises `ConfigError` for a variable with another value."""
        domain: int | None = self.domain_id
        if domain is None:
            text = environment.get("ROS_DOMAIN_ID", "").strip() or "0"
            if not text.isdecimal() or int(text) > DOMAIN.most:
                raise ConfigError(f"ROS_DOMAIN_ID is {text!r:.40}; expected a whole number, {DOMAIN.words(0)}")
            domain = int(text)
        reach = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper()
        if reach == "OFF" and self.discovery is None:
            raise ConfigError(
                "ROS_AUTOMATIC_DISCOVERY_RANGE is 'OFF', so no robot can be found; unset it, or set network.discovery to "
                "'subnet' or 'localhost'"
            )
        local = environment.get("ROS_LOCALHOST_ONLY") == "1" or reach == "LOCALHOST"
        peers = self.peers
        if peers is None:
            peers = tuple(filter(None, environment.get("ROS_STATIC_PEERS", "").split(";")))
        return DdsNetwork(domain, self.interface, self.discovery or ("localhost" if local else "subnet"), peers)


def cyclone_xml(network: DdsNetwork, further: str = "") -> str:
    """Cyclone DDS's configuration of a resolved `network`, as rmw_cyclonedds makes it; `further` overrides it.

    Args:
        further: content of the environment variable ``CYCLONEDDS_URI``: XML, or addresses of files.
    """
    local = network.discovery == "localhost"
    general = f"<Interfaces><NetworkInterface name='{network.interface}'/></Interfaces>" if network.interface else ""
    general += "<AllowMulticast>false</AllowMulticast>" if local else ""
    addresses = (*(("localhost",) if local else ()), *(network.peers or ()))
    peers = "".join(f"<Peer address='{each}'/>" for each in addresses)
    discovery = "<ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>32</MaxAutoParticipantIndex>"
    discovery = f"<Discovery>{discovery}<Peers>{peers}</Peers></Discovery>" if peers else ""
    internal = f"<SocketReceiveBufferSize max='{RECEIVE_BUFFER}'/><MaxSampleSize>{LARGEST_SAMPLE}</MaxSampleSize>"
    internal += "<WriterLingerDuration>0 s</WriterLingerDuration>"  # `DdsConnection.close` waits, once for all
    own = f"<General>{general}</General>{discovery}<Internal>{internal}</Internal>"
    return f"<CycloneDDS><Domain>{own}</Domain></CycloneDDS>,{further}".rstrip(",")
