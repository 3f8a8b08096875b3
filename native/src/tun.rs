//! Packets to and from the overlay device, with its offloads or without.

use std::io::IoSlice;
use std::os::fd::RawFd;

use nvpn_core::coalesce::{Coalescer, HEAD_BYTES, Offers, TunWrite};
use nvpn_core::flow::flow_hash;
use nvpn_core::virtio::{NO_OFFLOAD, VIRTIO_HEADER_SIZE};

use crate::sys::{self, Errno};

/// The largest frame: a virtio-net header and an IP packet.
pub const MAX_FRAME: usize = VIRTIO_HEADER_SIZE + 65_535;

const MAX_PIECES: usize = 130;

/// What reads and writes frames; tests have one that refuses.
pub trait Frames {
    /// Read one frame.
    ///
    /// # Errors
    /// What the kernel says.
    fn read(&mut self, frame: &mut [u8]) -> Result<usize, Errno>;

    /// Write one frame, from pieces that follow each other.
    ///
    /// # Errors
    /// What the kernel says.
    fn write(&mut self, pieces: &[IoSlice<'_>]) -> Result<usize, Errno>;
}

/// The device's descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor(pub RawFd);

impl Frames for Descriptor {
    #[inline]
    fn read(&mut self, frame: &mut [u8]) -> Result<usize, Errno> {
        sys::read(self.0, frame)
    }

    #[inline]
    fn write(&mut self, pieces: &[IoSlice<'_>]) -> Result<usize, Errno> {
        sys::writev(self.0, pieces)
    }
}

/// What became of writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Written {
    /// Packets that the device did not take.
    pub lost: u64,
}

/// Both directions of the device.
#[derive(Debug)]
pub struct TunPort<F = Descriptor> {
    /// One a queue.
    queues: Box<[F]>,
    vnet_hdr: bool,
    coalescer: Coalescer,
    refused: bool,
    changed: bool,
    gone: Errno,
}

impl TunPort {
    /// The descriptor of a queue, or -1 once the device is gone.
    pub fn fd(&self, queue: usize) -> RawFd {
        match self.queues.get(queue) {
            Some(queue) if self.gone == 0 => queue.0,
            _ => sys::NO_FD,
        }
    }
}

impl<F: Frames> TunPort<F> {
    /// `tso` and `uso` say what may be merged in a write.
    pub fn new(queues: Box<[F]>, vnet_hdr: bool, tso: bool, uso: bool) -> Self {
        let offers = Offers {
            tso: vnet_hdr && tso,
            uso: vnet_hdr && uso,
            partial: vnet_hdr,
        };
        Self {
            queues,
            vnet_hdr,
            coalescer: Coalescer::new(offers),
            refused: false,
            changed: false,
            gone: 0,
        }
    }

    /// Whether each packet begins with a virtio-net header.
    pub fn vnet_hdr(&self) -> bool {
        self.vnet_hdr
    }

    /// The errno with which the device was found to be gone; 0 before that.
    pub fn gone(&self) -> Errno {
        self.gone
    }

    /// What may be merged in a write.
    pub fn offers(&self) -> Offers {
        self.coalescer.offers()
    }

    /// Whether the kernel has refused a merged write.
    pub fn refused(&self) -> bool {
        self.refused
    }

    /// Whether `refused` has become true since the last call.
    pub fn take_change(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }

    /// Read one frame from a queue, header included; 0 when there is none.
    pub fn read(&mut self, queue: usize, frame: &mut [u8; MAX_FRAME]) -> usize {
        let Some(queue) = self.queues.get_mut(queue).filter(|_| self.gone == 0) else {
            return 0;
        };
        match queue.read(frame) {
            Ok(0) => self.gone = libc::ENODEV,
            Ok(size) => return size,
            Err(errno) if is_passing(errno) => {}
            Err(errno) => self.gone = errno,
        }
        0
    }

    /// Packets that lie in `buffer` are written next: begin anew, then `push`, then `write`.
    pub fn begin(&mut self) -> &mut Coalescer {
        self.coalescer.clear();
        &mut self.coalescer
    }

    /// Where packets are pushed after `begin`.
    pub fn coalescer(&mut self) -> &mut Coalescer {
        &mut self.coalescer
    }

    /// Write what was pushed, merged where that is possible; each flow stays in order.
    ///
    /// The kernel reads the answers of a flow out to us through the queue that it was
    /// written to, so each flow keeps to one.
    pub fn write(&mut self, buffer: &[u8]) -> Written {
        let mut written = Written::default();
        let mut head = [0; HEAD_BYTES];
        for index in 0..self.coalescer.len() {
            let Some(one) = self.coalescer.write(index, buffer, &mut head) else {
                break;
            };
            let queue = match self.queues.len() {
                1 => 0,
                count => one.packets().next().map_or(0, flow_hash) as usize % count.max(1),
            };
            let Some(frames) = self.queues.get_mut(queue) else {
                break;
            };
            let outcome = if self.vnet_hdr {
                write_merged(frames, &one)
            } else {
                Outcome::singly(frames, &one, None)
            };
            written.lost += outcome.lost;
            if outcome.refused {
                // Some kernels of 2024 refuse a short last segment, some vendors' any.
                self.changed |= !self.refused;
                self.refused = true;
            }
            if outcome.gone != 0 && self.gone == 0 {
                self.gone = outcome.gone;
            }
        }
        if self.refused {
            let partial = self.coalescer.offers().partial;
            self.coalescer.set_offers(Offers {
                tso: false,
                uso: false,
                partial,
            });
        }
        written
    }
}

/// Whether there may be more to read after this: nothing is there now, or the kernel gave one
/// packet up, which it could not describe in a header (EINVAL) or had no memory for.
fn is_passing(errno: Errno) -> bool {
    matches!(
        errno,
        libc::EAGAIN | libc::EINTR | libc::EINVAL | libc::ENOMEM | libc::ENOBUFS
    )
}

#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    lost: u64,
    refused: bool,
    gone: Errno,
}

impl Outcome {
    fn failed(errno: Errno) -> Self {
        // The device was deleted, or moved out of reach; the others are a full queue, an
        // interface that is down (EIO), or a packet that the kernel dislikes.
        let is_gone = matches!(
            errno,
            libc::EBADFD
                | libc::EBADF
                | libc::EFAULT
                | libc::ENODEV
                | libc::ENXIO
                | libc::EPIPE
                | libc::ECONNRESET
        );
        Self {
            lost: 1,
            refused: false,
            gone: if is_gone { errno } else { 0 },
        }
    }

    fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.refused |= other.refused;
        self.gone = if self.gone == 0 {
            other.gone
        } else {
            self.gone
        };
    }

    /// The packets of a write as they came, one by one.
    fn singly(frames: &mut impl Frames, write: &TunWrite<'_>, header: Option<&[u8]>) -> Self {
        let mut outcome = Self::default();
        for packet in write.packets() {
            let pieces = [
                IoSlice::new(header.unwrap_or_default()),
                IoSlice::new(packet),
            ];
            let pieces = if header.is_some() {
                &pieces[..]
            } else {
                &pieces[1..]
            };
            if let Err(errno) = frames.write(pieces) {
                outcome.add(Self::failed(errno));
            }
        }
        outcome
    }
}

fn write_merged(frames: &mut impl Frames, write: &TunWrite<'_>) -> Outcome {
    let mut pieces = [IoSlice::new(&[]); MAX_PIECES];
    pieces[0] = IoSlice::new(write.head);
    let mut used = 1;
    for (slot, piece) in pieces[1..].iter_mut().zip(write.pieces()) {
        *slot = IoSlice::new(piece);
        used += 1;
    }
    if used != write.count + 1 {
        // More than one receive can bring: never, but nothing may be lost in silence.
        return Outcome::singly(frames, write, Some(&NO_OFFLOAD));
    }
    match frames.write(&pieces[..used]) {
        Ok(_) => Outcome::default(),
        Err(libc::EINVAL) if write.count > 1 => Outcome {
            refused: true,
            ..Outcome::singly(frames, write, Some(&NO_OFFLOAD))
        },
        Err(libc::EINVAL) if write.head.len() > VIRTIO_HEADER_SIZE => {
            // With a checksum left to it the kernel takes it ill; without, it may not.
            Outcome::singly(frames, write, Some(&NO_OFFLOAD))
        }
        Err(errno) => Outcome {
            lost: write.count as u64,
            ..Outcome::failed(errno)
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvpn_core::checksum::{complement, word_sum};

    /// Takes down what is written, and refuses as it was told to.
    #[derive(Default)]
    struct Refusing {
        merged: Option<Errno>,
        any: Option<Errno>,
        written: Vec<Vec<u8>>,
        frame: Vec<u8>,
    }

    impl Frames for Refusing {
        fn read(&mut self, frame: &mut [u8]) -> Result<usize, Errno> {
            match self.any {
                Some(errno) => Err(errno),
                None => {
                    frame[..self.frame.len()].copy_from_slice(&self.frame);
                    Ok(self.frame.len())
                }
            }
        }

        fn write(&mut self, pieces: &[IoSlice<'_>]) -> Result<usize, Errno> {
            let whole: Vec<u8> = pieces
                .iter()
                .flat_map(|piece| piece.iter().copied())
                .collect();
            let refusal = self.any.or(self.merged.filter(|_| whole[1] != 0));
            refusal.map_or_else(
                || {
                    self.written.push(whole.clone());
                    Ok(whole.len())
                },
                Err,
            )
        }
    }

    fn port_of(frames: Refusing, vnet_hdr: bool, tso: bool, uso: bool) -> TunPort<Refusing> {
        TunPort::new(Box::new([frames]), vnet_hdr, tso, uso)
    }

    /// TCP segments of one flow, as they are delivered: behind each other.
    fn train(count: usize) -> Vec<Vec<u8>> {
        let one = |index: usize| {
            let mut packet = vec![index as u8; 140];
            packet[..40].fill(0);
            packet[..10].copy_from_slice(&[0x45, 0, 0, 140, 0, 0, 0x40, 0, 64, 6]);
            packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
            packet[24..28].copy_from_slice(&(100 * index as u32).to_be_bytes());
            packet[32..34].copy_from_slice(&[0x50, 0x10]);
            let sum = complement(word_sum(&packet[..20]));
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            packet
        };
        (0..count).map(one).collect()
    }

    fn write(port: &mut TunPort<Refusing>, packets: &[Vec<u8>]) -> Written {
        let buffer = packets.concat();
        port.begin();
        let mut start = 0;
        for packet in packets {
            port.coalescer().push(&buffer, start..start + packet.len());
            start += packet.len();
        }
        port.write(&buffer)
    }

    #[test]
    fn a_flow_is_one_write() {
        let mut port = port_of(Refusing::default(), true, true, true);
        assert_eq!(write(&mut port, &train(10)).lost, 0);
        assert_eq!(port.queues[0].written.len(), 1);
        assert_eq!(port.queues[0].written[0].len(), 10 + 40 + 1000);
    }

    #[test]
    fn a_kernel_that_refuses_merged_packets_gets_them_one_by_one_from_then_on() {
        let frames = Refusing {
            merged: Some(libc::EINVAL),
            ..Default::default()
        };
        let mut port = port_of(frames, true, true, true);
        let packets = train(5);
        assert_eq!(
            write(&mut port, &packets).lost,
            0,
            "never dropped in silence"
        );
        let written = port.queues[0].written.clone();
        let plain: Vec<Vec<u8>> = packets
            .iter()
            .map(|packet| [&NO_OFFLOAD[..], packet].concat())
            .collect();
        assert_eq!(written, plain);
        assert!(port.refused() && !port.offers().tso && !port.offers().uso);
        assert!(port.take_change() && !port.take_change());

        port.queues[0].merged = None;
        port.queues[0].written.clear();
        assert_eq!(write(&mut port, &packets).lost, 0);
        assert_eq!(port.queues[0].written.len(), 5);
    }

    #[test]
    fn one_packet_that_cannot_be_read_does_not_end_the_device() {
        for errno in [libc::EAGAIN, libc::EINTR, libc::EINVAL, libc::ENOMEM] {
            assert!(is_passing(errno));
        }
        for errno in [libc::EBADFD, libc::EBADF, libc::EFAULT, libc::EIO] {
            assert!(!is_passing(errno), "it would be read for ever");
        }
    }

    #[test]
    fn what_the_device_does_not_take_is_counted() {
        for errno in [libc::EIO, libc::EAGAIN, libc::ENOBUFS] {
            let frames = Refusing {
                any: Some(errno),
                ..Default::default()
            };
            let mut port = port_of(frames, true, true, true);
            assert_eq!(write(&mut port, &train(7)).lost, 7);
            assert_eq!((port.gone(), port.refused()), (0, false));
        }
    }

    #[test]
    fn a_device_that_is_gone_is_noticed_in_either_direction() {
        for errno in [libc::EBADFD, libc::ENODEV, libc::EPIPE] {
            let frames = Refusing {
                any: Some(errno),
                ..Default::default()
            };
            let mut port = port_of(frames, true, true, true);
            assert_eq!(write(&mut port, &train(1)).lost, 1);
            assert_eq!(port.gone(), errno);
        }
        let frames = Refusing {
            any: Some(libc::EBADFD),
            ..Default::default()
        };
        let mut port = port_of(frames, true, true, true);
        let mut frame = Box::new([0; MAX_FRAME]);
        assert_eq!((port.read(0, &mut frame), port.gone()), (0, libc::EBADFD));
        let mut port = port_of(Refusing::default(), true, true, true);
        assert_eq!(
            (port.read(0, &mut frame), port.gone()),
            (0, libc::ENODEV),
            "end of file"
        );
        let frames = Refusing {
            any: Some(libc::EAGAIN),
            ..Default::default()
        };
        let mut port = port_of(frames, true, true, true);
        assert_eq!(
            (port.read(0, &mut frame), port.gone()),
            (0, 0),
            "merely empty"
        );
    }

    #[test]
    fn a_bare_device_gets_packets_without_headers() {
        let mut port = port_of(Refusing::default(), false, true, true);
        let packets = train(3);
        assert_eq!(write(&mut port, &packets).lost, 0);
        assert_eq!(port.queues[0].written, packets);
    }

    #[test]
    fn of_several_queues_a_flow_keeps_to_one() {
        let queues = [(); 4].map(|()| Refusing::default());
        let mut port = TunPort::new(Box::new(queues), true, true, true);
        for host in 0..64 {
            let mut packets = train(3);
            packets.iter_mut().for_each(|packet| packet[15] = host);
            for _ in 0..2 {
                assert_eq!(write(&mut port, &packets).lost, 0);
            }
        }
        let sources = |queue: &Refusing| -> Vec<u8> {
            queue.written.iter().map(|frame| frame[10 + 15]).collect()
        };
        let mut seen = Vec::new();
        for queue in &port.queues {
            assert!(queue.written.len() >= 16, "no queue is left out");
            let mut hosts = sources(queue);
            hosts.dedup();
            seen.append(&mut hosts);
        }
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..64), "each in one queue alone");
    }
}
