//! Which authentic packets may pass into the device: a table of rules, the first that
//! matches decides.
//!
//! It looks at one packet at a time and remembers nothing. A later fragment shows no ports;
//! it passes where its first one could have passed, and is worth nothing without it. So no
//! packet passes that ends before its ports: a fragment could bring them past the rules.

use core::net::IpAddr;

use crate::PeerId;
use crate::flow::{Flow, Ports, flow_of};
use crate::inner::Inner;
use crate::prefix::Prefix;

/// Ports from the first to the second, both included.
pub type PortRange = (u16, u16);

/// One rule; what is `None` matches everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whether what matches may pass.
    pub accept: bool,
    /// From whom.
    pub peer: Option<PeerId>,
    /// The source address is in there.
    pub source: Option<Prefix>,
    /// The destination address is in there.
    pub destination: Option<Prefix>,
    /// The protocol above IP.
    pub protocol: Option<u8>,
    /// The sender's port; matches only what has ports.
    pub source_ports: Option<PortRange>,
    /// The receiver's port; matches only what has ports.
    pub destination_ports: Option<PortRange>,
}

impl Rule {
    fn matches(&self, peer: PeerId, inner: &Inner, flow: &Flow) -> bool {
        let within = |prefix: Option<Prefix>, address: IpAddr| {
            prefix.is_none_or(|prefix| prefix.contains(address))
        };
        self.peer.is_none_or(|wanted| wanted == peer)
            && self.protocol.is_none_or(|wanted| wanted == flow.protocol)
            && self.ports_match(flow.ports)
            && within(self.source, inner.source)
            && within(self.destination, inner.destination)
    }

    fn ports_match(&self, ports: Ports) -> bool {
        let within =
            |range: Option<PortRange>, port| range.is_none_or(|(a, b)| a <= port && port <= b);
        let wants_ports = self.source_ports.is_some() || self.destination_ports.is_some();
        match ports {
            Ports::Shown {
                source,
                destination,
            } => within(self.source_ports, source) && within(self.destination_ports, destination),
            Ports::None | Ports::CutOff => !wants_ports,
            // Only a rule that lets the first fragment pass may judge by ports not seen.
            Ports::Elsewhere => self.accept || !wants_ports,
        }
    }
}

/// The rules of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFilter {
    /// Asked in this order.
    pub rules: Box<[Rule]>,
    /// Whether a packet that no rule matches may pass.
    pub otherwise: bool,
}

impl PortFilter {
    /// Whether a packet from this peer may pass. It is past `parse_inner` and cut.
    #[must_use]
    pub fn accepts(&self, peer: PeerId, inner: &Inner, packet: &[u8]) -> bool {
        let flow = flow_of(packet);
        if flow.ports == Ports::CutOff {
            return false;
        }
        self.rules
            .iter()
            .find(|rule| rule.matches(peer, inner, &flow))
            .map_or(self.otherwise, |rule| rule.accept)
    }
}
