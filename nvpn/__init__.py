"""nvpn: a WireGuard-compatible VPN.

Three worlds, one above the other (docs/architecture.md):

* ``protocol`` decides: handshakes, timers, cookies. Pure; time is handed in.
* ``datapath`` moves packets between the TUN device and UDP.
* ``daemon`` wires the two to a host.
"""

__version__ = "0.1.0"
