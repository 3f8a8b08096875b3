//! Every system call of the datapath, and the only unsafe code of it.
//!
//! Nothing here decides anything: buffers in, numbers out, errors as `errno`. Descriptors
//! are borrowed by number from Python, which opens and closes them; [`EventFd`] alone is
//! owned here. Source: recvmsg(2), ip(7), ipv6(7), udp(7), RFC 3542 6.2 and 6.5.

use std::io::{Error, IoSlice};
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::RawFd;

use libc::{c_int, c_void};

/// What a system call failed with.
pub type Errno = i32;

/// A descriptor that is not there.
pub const NO_FD: RawFd = -1;

const UDP_SEGMENT: c_int = 103;
const UDP_GRO: c_int = 104;
/// Room for every control message that we ask for or send, with some to spare.
const CONTROL_BYTES: usize = 256;

fn last_errno() -> Errno {
    Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

fn checked(result: isize) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| last_errno())
}

/// The boot clock in nanoseconds: it goes on while the machine sleeps.
pub fn boot_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a timespec of ours. CLOCK_BOOTTIME exists since Linux 2.6.39.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
    (now.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(now.tv_nsec as u64)
}

/// Fill a buffer with random bytes; false when there are none yet.
pub fn random(buffer: &mut [u8]) -> bool {
    // SAFETY: the kernel writes at most `len` bytes into the buffer that we own.
    let got = unsafe {
        libc::getrandom(
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::GRND_NONBLOCK,
        )
    };
    usize::try_from(got) == Ok(buffer.len())
}

/// Read once; 0 at the end of the file.
pub fn read(fd: RawFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most `len` bytes into the buffer.
    checked(unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) })
}

/// Write pieces that follow each other, as one message.
pub fn writev(fd: RawFd, pieces: &[IoSlice<'_>]) -> Result<usize, Errno> {
    let count = c_int::try_from(pieces.len()).map_err(|_| libc::EINVAL)?;
    // SAFETY: IoSlice is guaranteed to have the layout of iovec, and borrows its bytes.
    checked(unsafe { libc::writev(fd, pieces.as_ptr().cast(), count) })
}

/// What came with datagrams in one read.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Bytes in the buffer.
    pub size: usize,
    /// Bytes of each datagram but the last; 0 when the kernel merged nothing.
    pub segment: usize,
    /// Where they came from.
    pub remote: SocketAddr,
    /// Our address that they came to, and the interface.
    pub source: Option<(IpAddr, u32)>,
    /// TOS byte or traffic class of the outer header.
    pub tos: u8,
}

#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// Receive without waiting.
pub fn receive(fd: RawFd, buffer: &mut [u8]) -> Result<Received, Errno> {
    let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut control = MaybeUninit::<Control>::uninit();
    let mut piece = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: msghdr is plain data for which zero is a value.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    message.msg_iov = &mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES as _;
    // SAFETY: every pointer in `message` is to memory of ours of the length it names.
    let size = checked(unsafe { libc::recvmsg(fd, &mut message, libc::MSG_DONTWAIT) })?;
    // SAFETY: zeroed above; the kernel wrote an address over it.
    let name = unsafe { name.assume_init() };
    let mut received = Received {
        size,
        segment: 0,
        remote: address_of(&name).ok_or(libc::EAFNOSUPPORT)?,
        source: None,
        tos: 0,
    };
    // SAFETY: the CMSG functions walk what the kernel wrote into `control`, whose length
    // it left in `message`; each read stays within the message's own length.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while !header.is_null() {
            let data = libc::CMSG_DATA(header);
            let length =
                ((*header).cmsg_len as usize).saturating_sub(data as usize - header as usize);
            parse_control(
                (*header).cmsg_level,
                (*header).cmsg_type,
                data,
                length,
                &mut received,
            );
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    Ok(received)
}

/// # Safety
/// `data` points to `length` readable bytes.
unsafe fn parse_control(
    level: c_int,
    kind: c_int,
    data: *const u8,
    length: usize,
    into: &mut Received,
) {
    // SAFETY: as the caller promises.
    let bytes = unsafe { std::slice::from_raw_parts(data, length) };
    let int = |at: usize| {
        bytes
            .get(at..at + 4)
            .map(|word| i32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
    };
    match (level, kind) {
        (libc::SOL_UDP, UDP_GRO) => into.segment = int(0).map_or(0, |size| size.max(0) as usize),
        (libc::IPPROTO_IP, libc::IP_PKTINFO) if length >= 12 => {
            let address = Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]);
            into.source = int(0).map(|interface| (IpAddr::V4(address), interface as u32));
        }
        (libc::IPPROTO_IP, libc::IP_TOS) if length >= 1 => into.tos = bytes[0],
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if length >= 20 => {
            let mut address = [0; 16];
            address.copy_from_slice(&bytes[..16]);
            into.source = int(16).map(|interface| (IpAddr::V6(address.into()), interface as u32));
        }
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => into.tos = int(0).unwrap_or(0) as u8,
        _ => {}
    }
}

fn address_of(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let pointer: *const libc::sockaddr_storage = name;
    match c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: sockaddr_storage has the size and alignment of every address.
            let v4 = unsafe { &*pointer.cast::<libc::sockaddr_in>() };
            let address = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(address, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*pointer.cast::<libc::sockaddr_in6>() };
            let address = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(address, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Where and how to send.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Where to.
    pub remote: SocketAddr,
    /// From which address; ignored if it is of another family. The interface is named only
    /// with a link-local one: a route that moves elsewhere must stay usable.
    pub source: Option<(IpAddr, u32)>,
    /// Outer TOS byte or traffic class; 0 is what sockets have by default.
    pub tos: u8,
    /// Bytes of each datagram but the last; 0 for a single one.
    pub segment: u16,
}

union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// Send one datagram, or several of `way.segment` bytes each. Never waits.
pub fn send(fd: RawFd, pieces: &[IoSlice<'_>], way: &Way) -> Result<usize, Errno> {
    let (mut name, name_size) = match way.remote {
        SocketAddr::V4(v4) => (
            Name {
                v4: libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.ip().octets()),
                    },
                    sin_zero: [0; 8],
                },
            },
            size_of::<libc::sockaddr_in>(),
        ),
        SocketAddr::V6(v6) => (
            Name {
                v6: libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.ip().octets(),
                    },
                    sin6_scope_id: v6.scope_id(),
                },
            },
            size_of::<libc::sockaddr_in6>(),
        ),
    };
    let mut control = Control([0; CONTROL_BYTES]);
    let control_size = build_control(&mut control, way);
    // SAFETY: msghdr is plain data for which zero is a value.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = name_size as libc::socklen_t;
    // sendmsg only reads the pieces; msghdr has no const pointers.
    message.msg_iov = pieces.as_ptr().cast_mut().cast();
    message.msg_iovlen = pieces.len() as _;
    if control_size > 0 {
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control_size as _;
    }
    // SAFETY: every pointer in `message` is to memory of ours of the length it names, and
    // IoSlice has the layout of iovec.
    checked(unsafe { libc::sendmsg(fd, &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
}

/// Fill in control messages; returns the bytes used.
fn build_control(control: &mut Control, way: &Way) -> usize {
    let mut used = 0;
    let mut add = |level: c_int, kind: c_int, data: &[u8]| {
        // SAFETY: these two only calculate.
        let (space, length) = unsafe {
            (
                libc::CMSG_SPACE(data.len() as u32) as usize,
                libc::CMSG_LEN(data.len() as u32) as usize,
            )
        };
        // Three messages of at most 20 bytes of data fit twice over.
        let room = &mut control.0[used..used + space];
        let start = length - data.len();
        let header = libc::cmsghdr {
            cmsg_len: length as _,
            cmsg_level: level,
            cmsg_type: kind,
        };
        // SAFETY: `room` has space for the header, and is aligned to 8 as each message is.
        unsafe { room.as_mut_ptr().cast::<libc::cmsghdr>().write(header) };
        room[start..length].copy_from_slice(data);
        used += space;
    };
    match way.remote {
        SocketAddr::V4(_) => {
            if let Some((IpAddr::V4(source), _)) = way.source {
                let mut data = [0; 12];
                data[4..8].copy_from_slice(&source.octets());
                add(libc::IPPROTO_IP, libc::IP_PKTINFO, &data);
            }
            if way.tos != 0 {
                add(
                    libc::IPPROTO_IP,
                    libc::IP_TOS,
                    &i32::from(way.tos).to_ne_bytes(),
                );
            }
        }
        SocketAddr::V6(_) => {
            if let Some((IpAddr::V6(source), interface)) = way.source {
                let mut data = [0; 20];
                data[..16].copy_from_slice(&source.octets());
                let link_local = source.segments()[0] & 0xFFC0 == 0xFE80;
                let named = if link_local { interface } else { 0 };
                data[16..].copy_from_slice(&named.to_ne_bytes());
                add(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &data);
            }
            if way.tos != 0 {
                add(
                    libc::IPPROTO_IPV6,
                    libc::IPV6_TCLASS,
                    &i32::from(way.tos).to_ne_bytes(),
                );
            }
        }
    }
    if way.segment != 0 {
        add(libc::SOL_UDP, UDP_SEGMENT, &way.segment.to_ne_bytes());
    }
    used
}

/// Send one datagram into a descriptor that has one other end.
pub fn send_to_path(fd: RawFd, datagram: &[u8]) -> Result<usize, Errno> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the kernel reads `len` bytes of the datagram.
    checked(unsafe { libc::send(fd, datagram.as_ptr().cast(), datagram.len(), flags) })
}

/// Receive one datagram from a descriptor that has one other end; 0 when that is closed.
pub fn receive_from_path(fd: RawFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most `len` bytes into the buffer.
    checked(unsafe {
        libc::recv(
            fd,
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_DONTWAIT,
        )
    })
}

fn socket_option(fd: RawFd, option: c_int) -> Result<c_int, Errno> {
    let mut value: c_int = 0;
    let mut size = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes into `value`.
    let result = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_UDP,
            option,
            (&raw mut value).cast::<c_void>(),
            &mut size,
        )
    };
    if result == 0 {
        Ok(value)
    } else {
        Err(last_errno())
    }
}

/// Whether the kernel knows UDP_SEGMENT: an older one would send one giant datagram.
pub fn has_gso(fd: RawFd) -> bool {
    socket_option(fd, UDP_SEGMENT).is_ok()
}

/// Whether the kernel merges what arrives.
pub fn has_gro(fd: RawFd) -> bool {
    socket_option(fd, UDP_GRO).is_ok_and(|on| on != 0)
}

/// Keep the kernel from merging what arrives.
pub fn disable_gro(fd: RawFd) {
    let off: c_int = 0;
    // SAFETY: the kernel reads four bytes of `off`. It may not know the option: then
    // there is nothing to switch off.
    unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_UDP,
            UDP_GRO,
            (&raw const off).cast::<c_void>(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
}

/// Sleep for so many nanoseconds, below a second, or somewhat longer.
pub fn pause(ns: u32) {
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: ns.into(),
    };
    // SAFETY: the kernel reads `time`; what is left of it is not asked for.
    unsafe { libc::nanosleep(&time, std::ptr::null_mut()) };
}

/// What `wait` looks at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Interest {
    /// The descriptor; negative ones are ignored.
    pub fd: RawFd,
    /// Set by `wait`: there is something to read, or something is wrong with it.
    pub ready: bool,
}

/// Waits for descriptors; keeps the kernel's list of them.
#[derive(Debug, Default)]
pub struct Poller(Vec<libc::pollfd>);

impl Poller {
    /// Wait until something is ready; `timeout_ms` -1 for ever.
    pub fn wait(&mut self, interests: &mut [Interest], timeout_ms: i32) {
        self.0.clear();
        self.0.extend(interests.iter().map(|one| libc::pollfd {
            fd: one.fd,
            events: libc::POLLIN,
            revents: 0,
        }));
        let count = self.0.len() as libc::nfds_t;
        // SAFETY: `count` entries of ours.
        let ready = unsafe { libc::poll(self.0.as_mut_ptr(), count, timeout_ms) };
        for (interest, fd) in interests.iter_mut().zip(&self.0) {
            interest.ready = ready > 0 && fd.revents != 0;
        }
    }
}

/// A descriptor that becomes readable when somebody signals it.
#[derive(Debug)]
pub struct EventFd(RawFd);

impl EventFd {
    /// Not signalled yet.
    pub fn new() -> Result<Self, Errno> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            Err(last_errno())
        } else {
            Ok(Self(fd))
        }
    }

    /// To wait for.
    pub fn fd(&self) -> RawFd {
        self.0
    }

    /// Make it readable.
    pub fn signal(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes of ours. It fails only if 2^64 - 2 signals wait already.
        unsafe { libc::write(self.0, one.as_ptr().cast(), one.len()) };
    }

    /// Make it unreadable until the next signal.
    pub fn clear(&self) {
        let mut count = [0; 8];
        // SAFETY: eight bytes of ours. Nothing waiting is no error.
        unsafe { libc::read(self.0, count.as_mut_ptr().cast(), count.len()) };
    }
}

impl Drop for EventFd {
    fn drop(&mut self) {
        // SAFETY: ours, and not used after this.
        unsafe { libc::close(self.0) };
    }
}

#[cfg(test)]
#[path = "sys_tests.rs"]
mod tests;
