//! Packets to and from the overlay device, with its offloads or without.

use std::io::IoSlice;
use std::os::fd::RawFd;

use nvpn_core::coalesce::{Coalescer, HEAD_BYTES, Offers, TunWrite};
use nvpn_core::virtio::{NO_OFFLOAD, VIRTIO_HEADER_SIZE};

use crate::sys::{self, Errno};

/// The largest frame: a virtio-net header and an IP packet.
pub const MAX_FRAME: usize = VIRTIO_HEADER_SIZE + 65_535;

const MAX_PIECES: usize = 130;

/// What became of writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Written {
    /// Packets that the device did not take.
    pub lost: u64,
}

/// Both directions of the device.
#[derive(Debug)]
pub struct TunPort {
    fd: RawFd,
    vnet_hdr: bool,
    coalescer: Coalescer,
    refused: bool,
    changed: bool,
    gone: Errno,
}

impl TunPort {
    /// `tso` and `uso` say what may be merged in a write.
    pub fn new(fd: RawFd, vnet_hdr: bool, tso: bool, uso: bool) -> Self {
        let offers = Offers {
            tso: vnet_hdr && tso,
            uso: vnet_hdr && uso,
            partial: vnet_hdr,
        };
        Self {
            fd,
            vnet_hdr,
            coalescer: Coalescer::new(offers),
            refused: false,
            changed: false,
            gone: 0,
        }
    }

    /// The device's descriptor, or -1 once it is gone.
    pub fn fd(&self) -> RawFd {
        if self.gone == 0 { self.fd } else { sys::NO_FD }
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

    /// Read one frame, header included; 0 when there is none.
    pub fn read(&mut self, frame: &mut [u8; MAX_FRAME]) -> usize {
        if self.gone != 0 {
            return 0;
        }
        match sys::read(self.fd, frame) {
            Ok(0) => self.gone = libc::ENODEV,
            Ok(size) => return size,
            Err(libc::EAGAIN | libc::EINTR) => {}
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
    pub fn write(&mut self, buffer: &[u8]) -> Written {
        let mut written = Written::default();
        let mut head = [0; HEAD_BYTES];
        for index in 0..self.coalescer.len() {
            let Some(one) = self.coalescer.write(index, buffer, &mut head) else {
                break;
            };
            let outcome = if self.vnet_hdr {
                write_merged(self.fd, &one)
            } else {
                Outcome::singly(self.fd, &one, None)
            };
            written.lost += outcome.lost;
            if outcome.refused {
                // Some kernels of 2024 refuse a short last segment, some vendors' any.
                self.changed = !self.refused;
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

    /// Write one whole packet that lies somewhere else.
    pub fn write_one(&mut self, packet: &[u8]) -> Written {
        self.begin().push(packet, 0..packet.len());
        self.write(packet)
    }
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
    fn singly(fd: RawFd, write: &TunWrite<'_>, header: Option<&[u8]>) -> Self {
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
            if let Err(errno) = sys::writev(fd, pieces) {
                outcome.add(Self::failed(errno));
            }
        }
        outcome
    }
}

fn write_merged(fd: RawFd, write: &TunWrite<'_>) -> Outcome {
    let mut pieces = [IoSlice::new(&[]); MAX_PIECES];
    pieces[0] = IoSlice::new(write.head);
    let mut used = 1;
    for (slot, piece) in pieces[1..].iter_mut().zip(write.pieces()) {
        *slot = IoSlice::new(piece);
        used += 1;
    }
    if used != write.count + 1 {
        // More than one receive can bring: never, but nothing may be lost in silence.
        return Outcome::singly(fd, write, Some(&NO_OFFLOAD));
    }
    match sys::writev(fd, &pieces[..used]) {
        Ok(_) => Outcome::default(),
        Err(libc::EINVAL) if write.count > 1 => Outcome {
            refused: true,
            ..Outcome::singly(fd, write, Some(&NO_OFFLOAD))
        },
        Err(libc::EINVAL) if write.head.len() > VIRTIO_HEADER_SIZE => {
            // With a checksum left to it the kernel takes it ill; without, it may not.
            Outcome::singly(fd, write, Some(&NO_OFFLOAD))
        }
        Err(errno) => Outcome {
            lost: write.count as u64,
            ..Outcome::failed(errno)
        },
    }
}
