//! The peers of a device, their routes and keys, and what happens to a packet.
//!
//! There are two ways through. The plain one, [`Device::send_inner`] and
//! [`Device::receive`], takes one packet at a time and is complete; it says what is done
//! with a packet, in which order. The other one is for batches: its pieces are asked one by
//! one by whoever holds a batch, on the same state and by the same rules.
//!
//! It has no descriptors and no clock: what is to be sent and written goes into an
//! [`Outbox`], time and randomness are handed in.

use core::fmt;
use std::collections::HashMap;
use std::sync::Arc;

use crate::admission::Admission;
use crate::allowed_ips::AllowedIps;
use crate::command::{Command, Diversion, NewKeypair, Role};
use crate::constants::TOS_HANDSHAKE;
use crate::drop_reason::{DropReason, Drops};
use crate::endpoint::Endpoint;
use crate::event::EventQueue;
use crate::filter::PortFilter;
use crate::icmp::ErrorLimit;
use crate::keypair::Keypair;
use crate::loops::OwnDatagrams;
use crate::message::{MessageType, message_type, sender_of};
use crate::peer::{Peer, PeerRef, Register};
use crate::shared::Traffic;
use crate::staging::{MAX_STAGED_BYTES, StagingBudget};
use crate::table::PeerTable;
use crate::{Instant, PeerId};

/// Fills a buffer with random bytes; false when there are none (yet).
pub type Random = Box<dyn FnMut(&mut [u8]) -> bool + Send>;

/// Where results go, in order.
pub trait Outbox {
    /// A datagram for the socket of the endpoint's version.
    ///
    /// `tos` is for the outer header. `peer` is `None` for a cookie reply, whose sender we
    /// do not know.
    fn datagram(&mut self, endpoint: &Endpoint, datagram: &[u8], tos: u8, peer: Option<PeerId>);

    /// A whole IP packet for the TUN device; it may be changed.
    fn inner(&mut self, packet: &mut [u8]);
}

/// Everything that a datapath knows.
pub struct Device {
    pub(crate) mtu: usize,
    pub(crate) peers: PeerTable,
    pub(crate) routes: AllowedIps<PeerRef>,
    /// For what is diverted and what is put in, before `routes`.
    pub(crate) diverted_routes: AllowedIps<PeerRef>,
    pub(crate) register: Register,
    pub(crate) admission: Admission,
    pub(crate) filter: Option<PortFilter>,
    pub(crate) diversions: Box<[Diversion]>,
    pub(crate) icmp: ErrorLimit,
    drops: Arc<Drops>,
    pub(crate) random: Random,
    pub(crate) scratch: Vec<u8>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({} peers, mtu {})", self.peers.len(), self.mtu)
    }
}

impl Device {
    /// A device without peers.
    ///
    /// `mtu` is the tunnel's, in bytes; 0 for unknown. `events` and `drops` are read by
    /// others while the device works. `random` is asked for cookie replies.
    pub fn new(mtu: u32, events: Arc<EventQueue>, drops: Arc<Drops>, random: Random) -> Self {
        Self {
            mtu: mtu as usize,
            peers: PeerTable::default(),
            routes: AllowedIps::new(),
            diverted_routes: AllowedIps::new(),
            register: Register {
                receivers: HashMap::new(),
                initiations: HashMap::new(),
                own: OwnDatagrams::new(),
                events,
                staging: StagingBudget::new(MAX_STAGED_BYTES),
                keys_gone: false,
            },
            admission: Admission::new(),
            filter: None,
            diversions: Box::default(),
            icmp: ErrorLimit::new(),
            drops,
            random,
            scratch: Vec::new(),
        }
    }

    /// The tunnel's MTU in bytes; 0 for unknown.
    pub const fn mtu(&self) -> usize {
        self.mtu
    }

    /// What happened.
    pub fn events(&self) -> &EventQueue {
        &self.register.events
    }

    /// Whether a keypair was zeroed since the last call: then it is time to overwrite what
    /// ciphers have left on the stack, with [`crate::aead::wipe_stack`].
    pub const fn take_keys_gone(&mut self) -> bool {
        core::mem::replace(&mut self.register.keys_gone, false)
    }

    // --- commands ---------------------------------------------------------------------

    /// Carry out a command; what names an unknown peer is ignored.
    pub fn apply(&mut self, command: Command, now: Instant, out: &mut dyn Outbox) {
        match command {
            Command::CreatePeer { peer, shared } => {
                self.destroy_peer(peer);
                self.peers.insert(peer, shared);
            }
            Command::DestroyPeer { peer } => self.destroy_peer(peer),
            Command::InsertPrefix {
                peer,
                prefix,
                diverted,
            } => {
                if let Some(at) = self.peers.find(peer) {
                    self.table(diverted).insert(prefix, at);
                }
            }
            Command::DeletePrefix {
                peer,
                prefix,
                diverted,
            } => {
                if let Some(at) = self.peers.find(peer) {
                    self.table(diverted).remove(prefix, at);
                }
            }
            Command::SetPeerEndpoint { peer, endpoint } => {
                let Some(at) = self.peers.find(peer) else {
                    return;
                };
                if self
                    .peers
                    .get_mut(at)
                    .is_some_and(|peer| peer.set_endpoint(endpoint))
                {
                    self.flush(at, now, out);
                }
            }
            Command::InstallKeypair { peer, keypair } => self.install(peer, keypair, now, out),
            Command::StopSending { peer } => {
                self.change(peer, |peer, register| peer.stop_sending(register));
            }
            Command::EraseKeys { peer } => {
                self.change(peer, |peer, register| peer.erase_keys(register));
            }
            Command::DropStaged { peer } => {
                let staged = self.change(peer, |peer, register| peer.forget_staged(register));
                self.drop_packets(DropReason::HandshakeFailed, staged.unwrap_or(0));
            }
            Command::SendKeepalive { peer } => {
                if let Some(at) = self.peers.find(peer) {
                    self.send_keepalive(at, now, out);
                }
            }
            Command::SendHandshake {
                peer,
                datagram,
                forget_source,
                also,
            } => {
                if forget_source {
                    self.forget_source(peer);
                }
                self.send_handshake(peer, &datagram, &also, now, out);
            }
            Command::Touch {
                peer,
                received_bytes,
                at,
            } => {
                let traffic = Traffic {
                    bytes: received_bytes,
                    packets: 1,
                    data: false,
                };
                self.change(peer, |peer, register| {
                    peer.note_received(at, traffic, false, &register.events);
                });
            }
            Command::SetAdmission { keys } => self.admission.configure(keys),
            Command::SetMtu { mtu } => self.mtu = mtu as usize,
            Command::SetFilter { filter } => {
                let before = self.filter.take();
                self.filter = filter.map(|filter| filter.after(before));
            }
            Command::Divert { diversions } => self.diversions = diversions,
            Command::SendInner { packet } => self.put_in(&packet, now, out),
            Command::AddPath { .. } | Command::RemovePath { .. } => {}
            Command::ReplaceSockets { .. } => {
                self.peers.iter_mut().for_each(Peer::forget_source);
            }
        }
    }

    /// Zero all keys and forget every peer.
    pub fn close(&mut self) {
        for name in self.peers.names() {
            self.destroy_peer(name);
        }
        self.admission.configure(None);
    }

    /// The kernel refused our address on that peer's path: let it choose.
    pub fn forget_source(&mut self, peer: PeerId) {
        self.change(peer, |peer, _| peer.forget_source());
    }

    fn table(&mut self, diverted: bool) -> &mut AllowedIps<PeerRef> {
        if diverted {
            &mut self.diverted_routes
        } else {
            &mut self.routes
        }
    }

    fn destroy_peer(&mut self, name: PeerId) {
        if let Some((at, mut peer)) = self.peers.remove(name) {
            self.routes.remove_peer(at);
            self.diverted_routes.remove_peer(at);
            peer.destroy(&mut self.register);
            if let Some(filter) = &mut self.filter {
                filter.forget(at);
            }
        }
    }

    fn install(&mut self, peer: PeerId, keypair: NewKeypair, now: Instant, out: &mut dyn Outbox) {
        let Some(at) = self.peers.find(peer) else {
            return;
        };
        let role = keypair.role;
        self.change(peer, |peer, register| {
            peer.install(Keypair::new(keypair), register);
        });
        if role == Role::Initiator && !self.flush(at, now, out) {
            // Tells the responder that we hold the key, so that it may use it too.
            self.send_keepalive(at, now, out);
        }
    }

    fn send_handshake(
        &mut self,
        peer: PeerId,
        datagram: &[u8],
        also: &[Endpoint],
        now: Instant,
        out: &mut dyn Outbox,
    ) {
        let Some(at) = self.peers.find(peer) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(at) else {
            return;
        };
        let Some(endpoint) = peer.endpoint else {
            self.drop_packets(DropReason::NoEndpoint, 1);
            return;
        };
        if message_type(datagram) == Some(MessageType::Initiation) {
            peer.expect_answer(sender_of(datagram), &mut self.register);
        }
        let traffic = Traffic {
            bytes: datagram.len() as u64,
            packets: 1,
            data: false,
        };
        for endpoint in core::iter::once(&endpoint).chain(also) {
            out.datagram(endpoint, datagram, TOS_HANDSHAKE, Some(peer.id));
            peer.note_sent(now, traffic, false, &self.register.events);
        }
    }

    fn send_keepalive(&mut self, at: PeerRef, now: Instant, out: &mut dyn Outbox) {
        let Some(peer) = self.peers.get_mut(at) else {
            return;
        };
        if peer.endpoint.is_none() {
            return;
        }
        if peer.may_send_at(now) {
            self.seal(at, &[], now, out);
        } else {
            peer.want_key(&self.register.events);
        }
    }

    /// Count dropped packets.
    pub fn drop_packets(&self, reason: DropReason, count: u64) {
        if count > 0 {
            self.drops.add(reason, count);
        }
    }

    // --- peers ------------------------------------------------------------------------

    fn change<R>(
        &mut self,
        peer: PeerId,
        change: impl FnOnce(&mut Peer, &mut Register) -> R,
    ) -> Option<R> {
        let at = self.peers.find(peer)?;
        Some(change(self.peers.get_mut(at)?, &mut self.register))
    }
}
