//! What the protocol tells the datapath: `nvpn/datapath/commands.py` in Rust.

use core::fmt;
use std::sync::Arc;

use crate::endpoint::Endpoint;
use crate::filter::PortFilter;
use crate::prefix::Prefix;
use crate::secret::Secret;
use crate::shared::PeerShared;
use crate::{Instant, PeerId};

/// Who began the handshake that a keypair comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We did.
    Initiator,
    /// The peer did.
    Responder,
}

/// A new keypair: see [`Command::InstallKeypair`].
#[derive(Debug)]
pub struct NewKeypair {
    /// Who began.
    pub role: Role,
    /// What the peer puts into the header of what it sends to us.
    pub our_index: u32,
    /// What we put into the header of what we send.
    pub their_index: u32,
    /// The key that we seal with.
    pub send_key: Secret,
    /// The key that we open with.
    pub receive_key: Secret,
    /// The instant that ages are counted from.
    pub born_at: Instant,
}

/// What handshake messages are judged with: see [`Command::SetAdmission`].
#[derive(Debug)]
pub struct AdmissionKeys {
    /// HASH("mac1----" ‖ our public key).
    pub mac1_key: Secret,
    /// HASH("cookie--" ‖ our public key).
    pub cookie_key: Secret,
    /// What our cookies are made from; changed by the protocol every 120 s.
    pub secret: Secret,
}

/// UDP packets that the protocol's neighbours want for themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Diversion {
    /// Where they go.
    pub prefix: Prefix,
    /// To which port there.
    pub port: u16,
}

/// One command. A batch of them applies whole, between packet batches. What names an
/// unknown peer is ignored.
pub enum Command {
    /// Know a peer: no endpoint, no keys, no prefixes.
    CreatePeer {
        /// Its name.
        peer: PeerId,
        /// What others read of it while the datapath runs.
        shared: Arc<PeerShared>,
    },
    /// Forget a peer: keys zeroed, prefixes removed, staged packets dropped. Raises no
    /// `KeypairGone`.
    DestroyPeer {
        /// Its name.
        peer: PeerId,
    },
    /// Route a prefix to the peer, whoever had it before.
    InsertPrefix {
        /// Its name.
        peer: PeerId,
        /// The prefix.
        prefix: Prefix,
        /// In the table that only what [`Command::Divert`] lifts out of the stream and
        /// [`Command::SendInner`] puts into it is routed by, before the other.
        diverted: bool,
    },
    /// Remove a prefix if this peer has it.
    DeletePrefix {
        /// Its name.
        peer: PeerId,
        /// The prefix.
        prefix: Prefix,
        /// From the table of what is diverted.
        diverted: bool,
    },
    /// Where to send. Loses against an endpoint learned later from a packet.
    SetPeerEndpoint {
        /// Its name.
        peer: PeerId,
        /// `None`: nowhere, until the peer shows up.
        endpoint: Option<Endpoint>,
    },
    /// Take a new keypair into the slots (paper, section 6).
    ///
    /// Of an initiator: it becomes `current`, and staged packets go out under it, or a
    /// keepalive when there are none. Of a responder: it becomes `next`, which only
    /// receives until the first authentic packet under it promotes it.
    InstallKeypair {
        /// Whose it is.
        peer: PeerId,
        /// The keypair.
        keypair: NewKeypair,
    },
    /// Send nothing more under `current` and forget `next`: our private key changed.
    StopSending {
        /// Its name.
        peer: PeerId,
    },
    /// Drop all keypairs; `KeypairGone` follows for each.
    EraseKeys {
        /// Its name.
        peer: PeerId,
    },
    /// The handshake was given up: drop staged packets, expect no answer to sent data.
    DropStaged {
        /// Its name.
        peer: PeerId,
    },
    /// Seal an empty packet under `current` and send it.
    SendKeepalive {
        /// Its name.
        peer: PeerId,
    },
    /// Send an initiation or response to where the peer is.
    SendHandshake {
        /// To whom.
        peer: PeerId,
        /// The message.
        datagram: Box<[u8]>,
        /// A retry: let the kernel choose our address anew.
        forget_source: bool,
        /// The same datagram to these, too; the peer's endpoint stays what it is.
        also: Box<[Endpoint]>,
    },
    /// An authentic handshake message came from the peer.
    Touch {
        /// From whom.
        peer: PeerId,
        /// Its size.
        received_bytes: u64,
        /// When.
        at: Instant,
    },
    /// What to judge handshake messages with; `None`: we have no private key, drop them all.
    SetAdmission {
        /// The keys.
        keys: Option<AdmissionKeys>,
    },
    /// The tunnel's MTU changed; 0 for unknown.
    SetMtu {
        /// In bytes.
        mtu: u32,
    },
    /// Let authentic packets pass by these rules; `None`: all of them.
    SetFilter {
        /// The rules.
        filter: Option<PortFilter>,
    },
    /// Lift authentic UDP packets to these places out of the stream: each becomes an
    /// `InnerReceived`. Replaces what was lifted before. Nobody but `SendInner` speaks from
    /// there: what comes from the TUN device and does, or hides whether it does, has no route.
    Divert {
        /// The places.
        diversions: Box<[Diversion]>,
    },
    /// Send an inner packet as if it had been read from the TUN device.
    SendInner {
        /// A whole IP packet.
        packet: Box<[u8]>,
    },
    /// Use these UDP sockets from now on. The engine's to carry out; the device forgets its
    /// sticky sources.
    ReplaceSockets {
        /// The IPv4 socket; -1 for off.
        ipv4: i32,
        /// The IPv6 socket; -1 for off.
        ipv6: i32,
    },
    /// Serve endpoints with this path by a descriptor. The engine's to carry out.
    AddPath {
        /// Its number, not [`crate::UDP_PATH`].
        path: u32,
        /// Connected, non-blocking, a datagram a read and a datagram a write.
        descriptor: i32,
    },
    /// Neither read from nor write to that path's descriptor any more. The engine's to carry
    /// out.
    RemovePath {
        /// Its number.
        path: u32,
    },
}

impl fmt::Debug for Command {
    /// The command and whom it is for, and nothing that is secret or long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, peer) = match self {
            Self::CreatePeer { peer, .. } => ("CreatePeer", Some(peer)),
            Self::DestroyPeer { peer } => ("DestroyPeer", Some(peer)),
            Self::InsertPrefix { peer, .. } => ("InsertPrefix", Some(peer)),
            Self::DeletePrefix { peer, .. } => ("DeletePrefix", Some(peer)),
            Self::SetPeerEndpoint { peer, .. } => ("SetPeerEndpoint", Some(peer)),
            Self::InstallKeypair { peer, .. } => ("InstallKeypair", Some(peer)),
            Self::StopSending { peer } => ("StopSending", Some(peer)),
            Self::EraseKeys { peer } => ("EraseKeys", Some(peer)),
            Self::DropStaged { peer } => ("DropStaged", Some(peer)),
            Self::SendKeepalive { peer } => ("SendKeepalive", Some(peer)),
            Self::SendHandshake { peer, .. } => ("SendHandshake", Some(peer)),
            Self::Touch { peer, .. } => ("Touch", Some(peer)),
            Self::SetAdmission { .. } => ("SetAdmission", None),
            Self::SetMtu { .. } => ("SetMtu", None),
            Self::SetFilter { .. } => ("SetFilter", None),
            Self::Divert { .. } => ("Divert", None),
            Self::SendInner { .. } => ("SendInner", None),
            Self::ReplaceSockets { .. } => ("ReplaceSockets", None),
            Self::AddPath { .. } => ("AddPath", None),
            Self::RemovePath { .. } => ("RemovePath", None),
        };
        match peer {
            Some(peer) => write!(f, "{name}({peer:?})"),
            None => f.write_str(name),
        }
    }
}
