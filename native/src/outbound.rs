//! From the TUN device to the peers.

use nvpn_core::aead::{BatchAead, RingAead};
use nvpn_core::constants::{TAG_SIZE, TRANSPORT_HEADER_SIZE, TRANSPORT_OVERHEAD};
use nvpn_core::datagrams::Datagrams;
use nvpn_core::inner::{outer_tos, padded_size, parse_inner, traffic_class};
use nvpn_core::split::{SEND_BYTES, Split};
use nvpn_core::virtio::{
    BadFrame, MAX_UDP_PAYLOAD, VIRTIO_HEADER_SIZE, VirtioHeader, complete_checksum,
};
use nvpn_core::{Device, DropReason, Instant, PeerRef, Traffic};

use crate::engine::Shared;
use crate::mail::Mail;
use crate::tun::{MAX_FRAME, TunPort};
use crate::udp::UdpSender;

const BYTES_A_TURN: usize = 4 * 65536;
const FRAMES_A_TURN: usize = 64;
const GSO_ECN: u8 = 0x80;

/// What packets on their way out pass through.
pub struct Way<'a> {
    /// Who they are for, and under which key.
    pub device: &'a mut Device,
    /// What sends them.
    pub udp: &'a mut UdpSender,
    /// What goes the plain way.
    pub mail: &'a mut Mail,
}

/// Reads packets, and hands them to what seals and sends them.
pub struct Outbound {
    frame: Box<[u8; MAX_FRAME]>,
    sealer: Sealer,
}

/// Plain packets in `gathered`, each where it will be sealed.
#[derive(Clone, Copy, Debug)]
struct Gathering {
    peer: PeerRef,
    tos: u8,
    datagrams: Datagrams,
}

impl Outbound {
    /// `batches`: whether packets may be sealed several at a time. `max_segments` is
    /// UDP_MAX_SEGMENTS.
    pub fn new(batches: bool, max_segments: usize) -> Self {
        Self {
            frame: Box::new([0; MAX_FRAME]),
            sealer: Sealer {
                datagrams: Box::new([0; SEND_BYTES]),
                gathered: Box::new([0; SEND_BYTES]),
                gathering: None,
                aead: RingAead,
                max_segments: if batches { max_segments } else { 1 },
            },
        }
    }

    /// Send a turn's share of what the device has; false once it has no more.
    pub fn run(&mut self, tun: &mut TunPort, shared: &Shared, way: &mut Way<'_>) -> bool {
        let (mut moved, mut frames) = (0, 0);
        let mut more = true;
        let mut now = 0;
        while moved < BYTES_A_TURN && frames < FRAMES_A_TURN {
            let size = tun.read(&mut self.frame);
            if size == 0 {
                more = false;
                break;
            }
            now = shared.now();
            let frame = &mut self.frame[..size];
            if self.sealer.take(frame, tun.vnet_hdr(), now, way).is_err() {
                way.device.drop_packets(DropReason::BadInner, 1);
            }
            moved += size;
            frames += 1;
        }
        if frames > 0 {
            self.sealer.flush(now, way);
        }
        more
    }
}

/// Seals and sends packets.
///
/// A superpacket is cut and sealed as one batch; packets that come alone wait for others
/// to the same peer until the turn ends, and are then sealed and sent as one.
struct Sealer {
    datagrams: Box<[u8; SEND_BYTES]>,
    gathered: Box<[u8; SEND_BYTES]>,
    gathering: Option<Gathering>,
    aead: RingAead,
    max_segments: usize,
}

impl Sealer {
    /// Send what a frame holds.
    fn take(
        &mut self,
        frame: &mut [u8],
        vnet_hdr: bool,
        now: Instant,
        way: &mut Way<'_>,
    ) -> Result<(), BadFrame> {
        if !vnet_hdr {
            self.send_packet(frame, now, way);
            return Ok(());
        }
        let header = VirtioHeader::parse(frame)?;
        let packet = &mut frame[VIRTIO_HEADER_SIZE..];
        if header.gso_type & !GSO_ECN == 0 {
            complete_checksum(&header, packet)?;
            self.send_packet(packet, now, way);
            return Ok(());
        }
        self.send_superpacket(&header, packet, now, way)
    }

    // --- superpackets -------------------------------------------------------------------

    fn send_superpacket(
        &mut self,
        header: &VirtioHeader,
        packet: &[u8],
        now: Instant,
        way: &mut Way<'_>,
    ) -> Result<(), BadFrame> {
        let mtu = way.device.mtu();
        let mut split = Split::new(header, packet, mtu, self.max_segments)?;
        let peer = way
            .device
            .route(packet, &split.inner())
            .ok()
            .filter(|&peer| split.largest() <= MAX_UDP_PAYLOAD && way.device.may_send(peer, now));
        // What is gathered was read before.
        self.flush(now, way);
        let tos = outer_tos(traffic_class(packet));
        while let Some(datagrams) = split.fill(&mut self.datagrams) {
            let sent = peer.is_some_and(|peer| {
                let batch = Gathering {
                    peer,
                    tos,
                    datagrams,
                };
                send_batch(&self.aead, &mut self.datagrams[..], batch, now, way)
            });
            if !sent {
                send_singly(&self.datagrams[..], &datagrams, now, way);
            }
        }
        Ok(())
    }

    // --- packets that come alone --------------------------------------------------------

    fn send_packet(&mut self, packet: &[u8], now: Instant, way: &mut Way<'_>) {
        let Some(inner) = parse_inner(packet) else {
            way.device.drop_packets(DropReason::BadInner, 1);
            return;
        };
        let peer = match way.device.route(packet, &inner) {
            Ok(peer) => peer,
            Err(reason) => return way.device.refuse(packet, reason, now, way.mail),
        };
        if !way.device.fits(peer, inner.length) {
            way.device.drop_packets(DropReason::TooBig, 1);
            return;
        }
        let packet = &packet[..inner.length];
        if way.device.may_send(peer, now) {
            self.gather(peer, packet, now, way);
        } else {
            way.device.stage(peer, packet);
        }
    }

    fn gather(&mut self, peer: PeerRef, packet: &[u8], now: Instant, way: &mut Way<'_>) {
        let tos = outer_tos(traffic_class(packet));
        let size = padded_size(packet.len(), way.device.mtu()) + TRANSPORT_OVERHEAD;
        let joined = self.gathering.as_mut().is_some_and(|gathering| {
            (gathering.peer, gathering.tos) == (peer, tos)
                && gathering.datagrams.push(size, self.max_segments)
        });
        if !joined {
            self.flush(now, way);
            let Some(datagrams) = Datagrams::covering(size, size) else {
                return;
            };
            self.gathering = Some(Gathering {
                peer,
                tos,
                datagrams,
            });
        }
        let end = self
            .gathering
            .map_or(0, |gathering| gathering.datagrams.size());
        let plain = &mut self.gathered[end - size + TRANSPORT_HEADER_SIZE..end - TAG_SIZE];
        let (room, padding) = plain.split_at_mut(packet.len());
        room.copy_from_slice(packet);
        padding.fill(0);
    }

    /// Send what is gathered.
    fn flush(&mut self, now: Instant, way: &mut Way<'_>) {
        if let Some(batch) = self.gathering.take()
            && !send_batch(&self.aead, &mut self.gathered[..], batch, now, way)
        {
            send_singly(&self.gathered[..], &batch.datagrams, now, way);
        }
    }
}

/// Seal a batch where it lies, and send it; false if there are not enough counters.
fn send_batch(
    aead: &impl BatchAead,
    buffer: &mut [u8],
    batch: Gathering,
    now: Instant,
    way: &mut Way<'_>,
) -> bool {
    let Gathering {
        peer,
        tos,
        datagrams,
    } = batch;
    let count = datagrams.count() as u64;
    let Some(sending) = way.device.begin_send(peer, count, now) else {
        return false;
    };
    let (endpoint, id) = (sending.endpoint, sending.peer);
    let sealed = aead.seal(
        sending.key,
        &sending.header,
        sending.first_counter,
        buffer,
        &datagrams,
    );
    if sealed.is_err() {
        // The batch lies in the buffer and has its counters: never; but send no plaintext.
        way.device.drop_packets(DropReason::SendFailed, count);
        return true;
    }
    let traffic = Traffic {
        bytes: datagrams.size() as u64,
        packets: count,
        data: true,
    };
    way.device.note_sent(peer, now, traffic);
    let outcome = way.udp.send(
        &endpoint,
        &buffer[..datagrams.size()],
        datagrams.stride(),
        tos,
        now,
    );
    if outcome != Default::default() {
        way.device
            .drop_packets(DropReason::SendFailed, outcome.lost as u64);
        if outcome.forget_source {
            way.device.forget_source(id);
        }
    }
    true
}

/// The plain way for packets that lie ready to be sealed.
#[cold]
fn send_singly(buffer: &[u8], datagrams: &Datagrams, now: Instant, way: &mut Way<'_>) {
    for range in datagrams.ranges() {
        let plain = &buffer[range.start + TRANSPORT_HEADER_SIZE..range.end - TAG_SIZE];
        way.device.send_inner(plain, now, way.mail);
    }
    // What is sealed later must not overtake them.
    way.mail.send(way.device, way.udp, now);
}
