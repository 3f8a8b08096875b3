//! Many packets of one flow as one: what a TUN device takes in a single write.
//!
//! The kernel then walks its stack once for 64 KiB instead of once for each packet.
//! Packets of a flow keep their order; packets are merged only when the kernel's own
//! generic receive offload would: equal in everything but what counts them. They stay
//! where they are: a write gathers a new head and the pieces behind it.
//!
//! The transport checksums of merged packets are not verified, and will not be by the
//! kernel: their bytes are authentic, which is why the kernel's WireGuard skips the sum
//! too. With [`Offers::partial`] that holds for those that stay alone as well.
//!
//! Source: Linux's `inet_gro_receive`, `ipv6_gro_receive`, `tcp_gro_receive`,
//! `udp_gro_receive`.

mod head;
mod segment;

use core::ops::Range;

use crate::inner::IPV6_HEADER_SIZE;
use crate::virtio::{NO_OFFLOAD, VIRTIO_HEADER_SIZE};
use head::{Whole, leave_checksum, merge_heads};
use segment::{Segment, Shape, is_alike, is_same_flow, recognise};

/// Of an IP packet, in bytes.
pub const MAX_PACKET: usize = 65_535;
/// `UDP_MAX_SEGMENTS` of kernels before 6.10; what is longer they refuse with EINVAL.
pub const MAX_UDP_SEGMENTS: usize = 64;
/// Room for what a write begins with: the virtio-net header and the longest headers.
pub const HEAD_BYTES: usize = 128;

const MAX_TCP_HEADER: usize = 60;
const _: () = assert!(HEAD_BYTES >= VIRTIO_HEADER_SIZE + IPV6_HEADER_SIZE + MAX_TCP_HEADER);

/// What the device takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offers {
    /// Merged TCP.
    pub tso: bool,
    /// Merged UDP.
    pub uso: bool,
    /// Packets that stay alone with a checksum left to the kernel, which then neither
    /// verifies it nor, for itself, computes it.
    pub partial: bool,
}

/// Takes packets in their order and merges what can be merged; keeps its memory.
#[derive(Debug)]
pub struct Coalescer {
    offers: Offers,
    trains: Vec<Train>,
    packets: Vec<Packet>,
    /// The train that may grow, of each flow: indices into `trains`.
    growing: Vec<usize>,
}

/// Packets of one flow, merged so far.
#[derive(Clone, Copy, Debug)]
struct Train {
    /// None for what is never merged.
    shape: Option<Shape>,
    next_sequence: u32,
    segment: usize,
    size: usize,
    open: bool,
    count: usize,
    /// Indices into `packets`, and where the first one lies: every packet is compared to it.
    first: u32,
    last: u32,
    head: Packet,
}

/// Where a packet lies, and which one of its train is the next ([`NO_PACKET`]: none).
#[derive(Clone, Copy, Debug)]
struct Packet {
    start: u32,
    end: u32,
    next: u32,
}

const NO_PACKET: u32 = u32::MAX;

impl Packet {
    fn at(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

impl Coalescer {
    /// For a device that takes this.
    #[must_use]
    pub fn new(offers: Offers) -> Self {
        Self {
            offers,
            trains: Vec::with_capacity(128),
            packets: Vec::with_capacity(128),
            growing: Vec::with_capacity(128),
        }
    }

    /// The device takes this from now on.
    pub fn set_offers(&mut self, offers: Offers) {
        self.offers = offers;
    }

    /// What the device takes.
    #[must_use]
    pub fn offers(&self) -> Offers {
        self.offers
    }

    /// Begin anew.
    pub fn clear(&mut self) {
        self.trains.clear();
        self.packets.clear();
        self.growing.clear();
    }

    /// Take the packet that lies at `at` in `buffer`.
    ///
    /// It is past [`crate::inner::parse_inner`] and cut to its length. Until the next
    /// [`Self::clear`] all packets are in the same buffer and stay as they are.
    pub fn push(&mut self, buffer: &[u8], at: Range<usize>) {
        let Some(packet) = buffer.get(at.clone()) else {
            return;
        };
        let (Ok(start), Ok(end)) = (at.start.try_into(), at.end.try_into()) else {
            return;
        };
        let index = self.packets.len() as u32;
        let head = Packet {
            start,
            end,
            next: NO_PACKET,
        };
        let train = match recognise(packet, self.offers) {
            Some(segment) => self.join_or_found(buffer, packet, &segment, index, head),
            None => {
                // What it belongs to is unknown here: nothing may overtake it.
                self.growing.clear();
                Some(Train {
                    shape: None,
                    next_sequence: 0,
                    segment: 0,
                    size: packet.len(),
                    open: false,
                    count: 1,
                    first: index,
                    last: index,
                    head,
                })
            }
        };
        self.packets.push(head);
        self.trains.extend(train);
    }

    /// Append the packet to its flow's train, or return the train that begins with it.
    #[inline]
    fn join_or_found(
        &mut self,
        buffer: &[u8],
        packet: &[u8],
        segment: &Segment,
        index: u32,
        head: Packet,
    ) -> Option<Train> {
        let mut of_flow = None;
        for slot in self.growing.iter_mut().rev() {
            let train = &mut self.trains[*slot];
            let first = &buffer[train.head.at()];
            if !is_same_flow(first, packet, segment.shape) {
                continue;
            }
            if train.may_take(segment) && is_alike(first, packet, segment.shape) {
                self.packets[train.last as usize].next = index;
                train.last = index;
                train.count += 1;
                train.size += segment.payload;
                train.next_sequence = segment.next_sequence();
                train.open = !segment.ends && segment.payload == train.segment;
                return None;
            }
            of_flow = Some(slot);
            break;
        }
        let founded = self.trains.len();
        match of_flow {
            Some(slot) => *slot = founded,
            None => self.growing.push(founded),
        }
        Some(Train {
            shape: Some(segment.shape),
            next_sequence: segment.next_sequence(),
            segment: segment.payload,
            size: packet.len(),
            open: !segment.ends && segment.payload > 0,
            count: 1,
            first: index,
            last: index,
            head,
        })
    }

    /// How many writes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.trains.len()
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.trains.is_empty()
    }

    /// The write with this number; its first bytes are made in `head`.
    ///
    /// None past the last one.
    pub fn write<'a>(
        &'a self,
        index: usize,
        buffer: &'a [u8],
        head: &'a mut [u8; HEAD_BYTES],
    ) -> Option<TunWrite<'a>> {
        let train = self.trains.get(index)?;
        let first = buffer.get(train.head.at())?;
        let last = buffer.get(self.packets[train.last as usize].at())?;
        let room = &mut head[VIRTIO_HEADER_SIZE..];
        let (virtio, taken) = match train.shape {
            Some(shape) if train.count > 1 => merge_heads(&train.whole(), shape, first, last, room),
            _ if self.offers.partial => leave_checksum(first, room),
            _ => None,
        }
        .unwrap_or((NO_OFFLOAD, 0));
        head[..VIRTIO_HEADER_SIZE].copy_from_slice(&virtio);
        Some(TunWrite {
            head: &head[..VIRTIO_HEADER_SIZE + taken],
            count: train.count,
            packets: Pieces {
                packets: &self.packets,
                buffer,
                next: train.first,
                skip: 0,
            },
            taken,
        })
    }
}

impl Train {
    fn whole(&self) -> Whole {
        let Self { size, segment, .. } = *self;
        Whole { size, segment }
    }

    fn may_take(&self, segment: &Segment) -> bool {
        self.open
            && self.shape == Some(segment.shape)
            && (1..=self.segment).contains(&segment.payload)
            && self.size + segment.payload <= MAX_PACKET
            && if segment.shape.is_tcp {
                segment.sequence == self.next_sequence
            } else {
                self.count < MAX_UDP_SEGMENTS
            }
    }
}

/// One write: `head`, then [`TunWrite::pieces`], one behind the other.
#[derive(Clone, Debug)]
pub struct TunWrite<'a> {
    /// The virtio-net header, and headers that were made anew.
    pub head: &'a [u8],
    /// How many packets it holds.
    pub count: usize,
    packets: Pieces<'a>,
    /// How many bytes of each packet `head` stands for.
    taken: usize,
}

impl<'a> TunWrite<'a> {
    /// What follows `head`: one piece of each packet; of a bare header an empty one.
    #[must_use]
    pub fn pieces(&self) -> Pieces<'a> {
        Pieces {
            skip: self.taken,
            ..self.packets.clone()
        }
    }

    /// The packets as they came, to be written behind [`NO_OFFLOAD`] one by one when the
    /// kernel refuses the whole.
    #[must_use]
    pub fn packets(&self) -> Pieces<'a> {
        self.packets.clone()
    }
}

/// The packets of a write, or what is left of them.
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    packets: &'a [Packet],
    buffer: &'a [u8],
    next: u32,
    skip: usize,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let packet = self.packets.get(self.next as usize)?;
        self.next = packet.next;
        let Range { start, end } = packet.at();
        self.buffer.get(start + self.skip..end)
    }
}
