//! Which authentic packets may pass into the device: a table of rules, the first that
//! matches decides.
//!
//! With a memory ([`Connections`]), what answers to something that we have said passes before
//! the rules, and a later fragment, which shows no ports, passes after its first one. Without
//! a memory a later fragment passes where its first one could have passed, and is worth nothing
//! without it. So no packet passes that ends before its ports: a fragment could bring them
//! past the rules.

use std::collections::HashMap;

use core::net::IpAddr;

use crate::connections::Connections;
use crate::flow::{Flow, Ports, TCP, flow_of};
use crate::inner::Inner;
use crate::prefix::Prefix;
use crate::{Instant, PeerId, PeerRef};

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
    /// Whether a packet matches, of a peer that the rule is about.
    fn matches(&self, inner: &Inner, flow: &Flow) -> bool {
        let within = |prefix: Option<Prefix>, address: IpAddr| {
            prefix.is_none_or(|prefix| prefix.contains(address))
        };
        self.protocol.is_none_or(|wanted| wanted == flow.protocol)
            && self.ports_match(flow.ports)
            && within(self.source, inner.source)
            && within(self.destination, inner.destination)
    }

    /// Whether it matches every packet of the peers that it is about.
    const fn matches_all(&self) -> bool {
        self.source.is_none()
            && self.destination.is_none()
            && self.protocol.is_none()
            && self.source_ports.is_none()
            && self.destination_ports.is_none()
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

/// What a peer's packets are asked, in this order.
#[derive(Clone, Debug)]
struct Rules {
    rules: Box<[Rule]>,
    otherwise: bool,
    /// Everything may pass.
    are_open: bool,
}

impl Rules {
    fn new(rules: Vec<Rule>, otherwise: bool) -> Self {
        let are_open = match rules.first() {
            Some(first) => first.accept && first.matches_all(),
            None => otherwise,
        };
        Self {
            rules: rules.into(),
            otherwise,
            are_open,
        }
    }

    fn accept(&self, inner: &Inner, flow: &Flow) -> bool {
        self.rules
            .iter()
            .find(|rule| rule.matches(inner, flow))
            .map_or(self.otherwise, |rule| rule.accept)
    }
}

/// The last verdict on a packet of a peer's, which is that on the next one of the same flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct LastVerdict(Option<Verdict>);

#[derive(Clone, Copy, Debug)]
struct Verdict {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ports: Ports,
    passes: bool,
}

impl Verdict {
    fn is_about(&self, inner: &Inner, flow: &Flow) -> bool {
        (self.source, self.destination) == (inner.source, inner.destination)
            && (self.protocol, self.ports) == (flow.protocol, flow.ports)
    }
}

/// The rules of a device, and what it remembers.
#[derive(Debug)]
pub struct PortFilter {
    common: Rules,
    /// Of peers that have rules of their own: thousands may, and none is asked another one's.
    own: HashMap<PeerId, Rules>,
    connections: Option<Box<Connections>>,
}

impl PortFilter {
    /// `otherwise`: whether a packet that no rule matches may pass. `remember`: what we send,
    /// so that what answers it passes before the rules.
    #[must_use]
    pub fn new(rules: &[Rule], otherwise: bool, remember: bool) -> Self {
        let mut common = Vec::new();
        let mut own = HashMap::<PeerId, Vec<Rule>>::new();
        for rule in rules {
            if let Some(peer) = rule.peer {
                let its = own.entry(peer).or_insert_with(|| common.clone());
                its.push(rule.clone());
                continue;
            }
            common.push(rule.clone());
            for its in own.values_mut() {
                if its.last().is_none_or(|last| !last.matches_all()) {
                    its.push(rule.clone());
                }
            }
        }
        let group = |(peer, rules)| (peer, Rules::new(rules, otherwise));
        Self {
            common: Rules::new(common, otherwise),
            own: own.into_iter().map(group).collect(),
            connections: remember.then(Box::default),
        }
    }

    /// Remember still what the filter before this one remembers.
    #[must_use]
    pub fn after(mut self, before: Option<Self>) -> Self {
        if let (Some(own), Some(kept)) = (
            &mut self.connections,
            before.and_then(|filter| filter.connections),
        ) {
            *own = kept;
        }
        self
    }

    /// Whether a packet from this peer may pass. It is past `parse_inner` and cut.
    pub fn accepts(
        &mut self,
        (at, peer): (PeerRef, PeerId),
        inner: &Inner,
        packet: &[u8],
        now: Instant,
        last: &mut LastVerdict,
    ) -> bool {
        if self.rules(peer).are_open {
            return true;
        }
        let flow = flow_of(packet);
        if let Some(verdict) = last.0
            && verdict.is_about(inner, &flow)
            && is_ordinary(&flow, packet)
        {
            return verdict.passes;
        }
        let passes = self.judge(at, peer, inner, &flow, packet, now);
        *last = LastVerdict(is_ordinary(&flow, packet).then_some(Verdict {
            source: inner.source,
            destination: inner.destination,
            protocol: flow.protocol,
            ports: flow.ports,
            passes,
        }));
        passes
    }

    /// A packet, or a superpacket, goes to this peer. It is cut to its length.
    pub fn note_sent(
        &mut self,
        (at, peer): (PeerRef, PeerId),
        (source, destination): (IpAddr, IpAddr),
        packet: &[u8],
        now: Instant,
    ) {
        if self.connections.is_none() || self.rules(peer).are_open {
            return;
        }
        if let Some(connections) = &mut self.connections {
            connections.note_sent(at, source, destination, packet, now);
        }
    }

    /// The peer is gone.
    pub fn forget(&mut self, peer: PeerRef) {
        if let Some(connections) = &mut self.connections {
            connections.forget(peer);
        }
    }

    fn judge(
        &mut self,
        at: PeerRef,
        peer: PeerId,
        inner: &Inner,
        flow: &Flow,
        packet: &[u8],
        now: Instant,
    ) -> bool {
        if flow.ports == Ports::CutOff {
            return false;
        }
        let Some(connections) = &mut self.connections else {
            return self.rules(peer).accept(inner, flow);
        };
        if flow.ports == Ports::Elsewhere {
            return flow
                .fragment
                .is_some_and(|fragment| connections.continues(at, inner, &fragment, now));
        }
        if !connections.expects(at, inner, flow, packet, now)
            && !self.rules(peer).accept(inner, flow)
        {
            return false;
        }
        if let (Some(connections), Some(fragment)) = (&mut self.connections, &flow.fragment) {
            connections.note_first(at, inner, fragment, now);
        }
        true
    }

    fn rules(&self, peer: PeerId) -> &Rules {
        if self.own.is_empty() {
            return &self.common;
        }
        self.own.get(&peer).unwrap_or(&self.common)
    }
}

/// Whether a packet neither begins nor ends anything: it is one of many of its flow.
fn is_ordinary(flow: &Flow, packet: &[u8]) -> bool {
    const FIN_SYN_RST: u8 = 0x07;
    let is_quiet = |flags: &u8| flags & FIN_SYN_RST == 0;
    matches!(flow.ports, Ports::Shown { .. })
        && flow.fragment.is_none()
        && (flow.protocol != TCP || packet.get(flow.at + 13).is_some_and(is_quiet))
}
