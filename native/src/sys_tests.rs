use super::*;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

fn socket(address: &str) -> Option<UdpSocket> {
    let bound = UdpSocket::bind(address);
    if bound.is_err() {
        eprintln!("skipped: no socket can have {address} here");
    }
    bound.ok()
}

fn set(socket: &UdpSocket, level: c_int, option: c_int) {
    let on: c_int = 1;
    let size = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads four bytes of `on`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size,
        )
    };
    assert_eq!(result, 0, "option {option}");
}

fn way(remote: SocketAddr) -> Way {
    Way {
        remote,
        source: None,
        tos: 0,
        segment: 0,
    }
}

fn nothing() -> Received {
    Received {
        size: 0,
        segment: 0,
        remote: ([0, 0, 0, 0], 0).into(),
        source: None,
        tos: 0,
    }
}

/// What a control message says; its data lies alone, so that a sanitizer sees who reads on.
fn parse(level: c_int, kind: c_int, data: &[u8]) -> Received {
    let alone: Box<[u8]> = data.into();
    let mut received = nothing();
    // SAFETY: a slice of that length.
    unsafe { parse_control(level, kind, alone.as_ptr(), alone.len(), &mut received) };
    received
}

/// The control messages of a send: level, kind and data.
fn built(way: &Way) -> Vec<(c_int, c_int, Vec<u8>)> {
    let mut control = Control([0xAA; CONTROL_BYTES]);
    let used = build_control(&mut control, way);
    assert!(control.0[used..].iter().all(|&byte| byte == 0xAA));
    // SAFETY: plain data, for which zero is a value.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = used as _;
    let mut messages = Vec::new();
    // SAFETY: the functions walk what was built, within its length.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while !header.is_null() {
            let data = libc::CMSG_DATA(header);
            let length = (*header).cmsg_len as usize - (data as usize - header as usize);
            let bytes = std::slice::from_raw_parts(data, length).to_vec();
            messages.push(((*header).cmsg_level, (*header).cmsg_type, bytes));
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    messages
}

#[test]
fn what_is_sent_as_segments_arrives_as_datagrams_with_its_class() {
    let (a, b) = (
        UdpSocket::bind("127.0.0.1:0").unwrap(),
        UdpSocket::bind("127.0.0.1:0").unwrap(),
    );
    if !has_gso(a.as_raw_fd()) {
        return;
    }
    set(&b, libc::IPPROTO_IP, libc::IP_RECVTOS);
    let way = Way {
        source: Some((Ipv4Addr::LOCALHOST.into(), 1)),
        tos: 2,
        segment: 100,
        ..way(b.local_addr().unwrap())
    };
    let bytes = [7; 250];
    assert_eq!(send(a.as_raw_fd(), &[IoSlice::new(&bytes)], &way), Ok(250));
    let mut buffer = [0; 1000];
    for size in [100, 100, 50] {
        let got = receive(b.as_raw_fd(), &mut buffer).unwrap();
        assert_eq!((got.size, got.segment, got.tos), (size, 0, 2));
        assert_eq!(got.remote, a.local_addr().unwrap());
    }
    assert_eq!(
        receive(b.as_raw_fd(), &mut buffer).unwrap_err(),
        libc::EAGAIN
    );
}

#[test]
fn segments_arrive_merged_where_that_is_asked_for_and_singly_once_it_is_not() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (Some(a), Some(b)) = (socket(address), socket(address)) else {
            continue;
        };
        if !has_gso(a.as_raw_fd()) || socket_option(b.as_raw_fd(), UDP_GRO).is_err() {
            eprintln!("skipped: this kernel merges nothing");
            return;
        }
        set(&b, libc::SOL_UDP, UDP_GRO);
        assert!(has_gro(b.as_raw_fd()) && !has_gro(a.as_raw_fd()));
        let way = Way {
            segment: 100,
            ..way(b.local_addr().unwrap())
        };
        let bytes: Vec<u8> = (0..250).map(|byte| byte as u8).collect();
        let pieces = [IoSlice::new(&bytes[..30]), IoSlice::new(&bytes[30..])];
        assert_eq!(send(a.as_raw_fd(), &pieces, &way), Ok(250));
        let mut buffer = [0; 1000];
        let got = receive(b.as_raw_fd(), &mut buffer).unwrap();
        assert_eq!((got.size, got.segment), (250, 100));
        assert_eq!(buffer[..250], bytes);

        disable_gro(b.as_raw_fd());
        assert!(!has_gro(b.as_raw_fd()));
        assert_eq!(send(a.as_raw_fd(), &pieces, &way), Ok(250));
        let got = receive(b.as_raw_fd(), &mut buffer).unwrap();
        assert_eq!((got.size, got.segment), (100, 0));
    }
}

#[test]
fn a_datagram_tells_of_where_it_came_to_and_of_its_class_over_either_family() {
    for (address, level, options) in [
        (
            "127.0.0.1:0",
            libc::IPPROTO_IP,
            [libc::IP_PKTINFO, libc::IP_RECVTOS],
        ),
        (
            "[::1]:0",
            libc::IPPROTO_IPV6,
            [libc::IPV6_RECVPKTINFO, libc::IPV6_RECVTCLASS],
        ),
    ] {
        let (Some(a), Some(b)) = (socket(address), socket(address)) else {
            continue;
        };
        for option in options {
            set(&b, level, option);
        }
        let here = b.local_addr().unwrap();
        let way = Way {
            source: Some((here.ip(), 0)),
            tos: 0xB9,
            ..way(here)
        };
        assert_eq!(send(a.as_raw_fd(), &[IoSlice::new(b"hello")], &way), Ok(5));
        let mut buffer = [0; 5];
        let got = receive(b.as_raw_fd(), &mut buffer).unwrap();
        let (source, interface) = got.source.unwrap();
        assert_eq!((source, got.tos, &buffer), (here.ip(), 0xB9, b"hello"));
        assert!(interface > 0);
        assert_eq!(got.remote, a.local_addr().unwrap());
    }
}

#[test]
fn a_datagram_of_nothing_is_one_and_a_long_one_is_cut() {
    let (a, b) = (
        UdpSocket::bind("127.0.0.1:0").unwrap(),
        UdpSocket::bind("127.0.0.1:0").unwrap(),
    );
    let way = way(b.local_addr().unwrap());
    assert_eq!(send(a.as_raw_fd(), &[], &way), Ok(0));
    assert_eq!(send(a.as_raw_fd(), &[IoSlice::new(&[])], &way), Ok(0));
    for _ in 0..3 {
        assert_eq!(send(a.as_raw_fd(), &[IoSlice::new(&[7; 90])], &way), Ok(90));
    }
    let mut buffer = vec![0; 33].into_boxed_slice();
    assert_eq!(receive(b.as_raw_fd(), &mut buffer).unwrap().size, 0);
    assert_eq!(receive(b.as_raw_fd(), &mut []).unwrap().size, 0);
    assert_eq!(receive(b.as_raw_fd(), &mut buffer).unwrap().size, 33);
    assert_eq!(receive(b.as_raw_fd(), &mut []).unwrap().size, 0);
    assert_eq!(receive(b.as_raw_fd(), &mut buffer).unwrap().size, 33);
    assert_eq!(
        receive(b.as_raw_fd(), &mut buffer).unwrap_err(),
        libc::EAGAIN
    );
}

#[test]
fn a_source_of_the_other_family_is_left_out() {
    let v4: SocketAddr = "192.0.2.1:51820".parse().unwrap();
    let v6: SocketAddr = "[2001:db8::1]:51820".parse().unwrap();
    for (remote, source) in [(v4, v6.ip()), (v6, v4.ip())] {
        let way = Way {
            source: Some((source, 3)),
            ..way(remote)
        };
        assert_eq!(built(&way), []);
    }
}

#[test]
fn control_messages_say_what_is_asked_for_and_are_read_as_they_are_written() {
    let sources = ["192.0.2.9", "2001:db8::9", "fe80::9"].map(|ip| ip.parse().unwrap());
    for source in sources {
        for (tos, segment) in [(0, 0), (0x88, 0), (0, 1452), (0xFF, u16::MAX)] {
            let remote = match source {
                IpAddr::V4(_) => "192.0.2.1:1",
                IpAddr::V6(_) => "[2001:db8::1]:1",
            };
            let way = Way {
                remote: remote.parse().unwrap(),
                source: Some((source, 7)),
                tos,
                segment,
            };
            let mut received = nothing();
            let mut messages = built(&way);
            if segment != 0 {
                let last = messages.pop().unwrap();
                let size = segment.to_ne_bytes().to_vec();
                assert_eq!(last, (libc::SOL_UDP, UDP_SEGMENT, size));
            }
            assert_eq!(messages.len(), 1 + usize::from(tos != 0));
            for (level, kind, data) in messages {
                // SAFETY: a vector of that length.
                unsafe {
                    parse_control(level, kind, data.as_ptr(), data.len(), &mut received);
                }
            }
            assert_eq!(received.tos, tos);
            // Only a link-local address needs its interface.
            let interface = if source == sources[2] { 7 } else { 0 };
            assert_eq!(received.source, Some((source, interface)));
        }
    }
}

#[test]
fn control_data_that_ends_early_is_not_read_on_and_says_nothing() {
    let ones = [1; 24];
    let known = [
        (libc::SOL_UDP, UDP_GRO, 4),
        (libc::IPPROTO_IP, libc::IP_PKTINFO, 12),
        (libc::IPPROTO_IP, libc::IP_TOS, 1),
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, 20),
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, 4),
    ];
    for (level, kind, enough) in known {
        for size in 0..=ones.len() {
            let got = parse(level, kind, &ones[..size]);
            let is_silent = got.segment == 0 && got.source.is_none() && got.tos == 0;
            assert_eq!(is_silent, size < enough, "kind {kind}, {size} bytes");
        }
    }
    let got = parse(libc::SOL_SOCKET, libc::SCM_RIGHTS, &ones);
    assert_eq!((got.segment, got.source, got.tos), (0, None, 0));
}

#[test]
fn a_size_below_zero_is_none() {
    let size = (-5_i32).to_ne_bytes();
    assert_eq!(parse(libc::SOL_UDP, UDP_GRO, &size).segment, 0);
}

#[test]
fn a_sender_without_an_internet_address_is_refused() {
    let (a, b) = UnixDatagram::pair().unwrap();
    a.send(b"hello").unwrap();
    let mut buffer = [0; 10];
    assert_eq!(
        receive(b.as_raw_fd(), &mut buffer).unwrap_err(),
        libc::EAFNOSUPPORT
    );
}

#[test]
fn an_address_keeps_its_port_and_scope() {
    let Some(a) = socket("[::1]:0") else { return };
    let here = a.local_addr().unwrap();
    assert_eq!(
        send(a.as_raw_fd(), &[IoSlice::new(b"me")], &way(here)),
        Ok(2)
    );
    let got = receive(a.as_raw_fd(), &mut [0; 2]).unwrap();
    assert_eq!(got.remote, here);

    // SAFETY: plain data, for which zero is a value.
    let mut name: libc::sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
    assert_eq!(address_of(&name), None);
    name.ss_family = libc::AF_INET6 as libc::sa_family_t;
    // SAFETY: sockaddr_storage has the size and alignment of every address.
    let v6 = unsafe { &mut *(&raw mut name).cast::<libc::sockaddr_in6>() };
    v6.sin6_port = 51820_u16.to_be();
    v6.sin6_scope_id = 4;
    v6.sin6_addr.s6_addr[..2].copy_from_slice(&[0xFE, 0x80]);
    let expected = SocketAddrV6::new("fe80::".parse().unwrap(), 51820, 0, 4);
    assert_eq!(address_of(&name), Some(expected.into()));
}

#[test]
fn a_path_carries_datagrams_and_says_when_it_is_full_or_has_no_other_end() {
    let (a, b) = UnixDatagram::pair().unwrap();
    let mut buffer = [0; 4];
    assert_eq!(
        receive_from_path(b.as_raw_fd(), &mut buffer),
        Err(libc::EAGAIN)
    );
    for datagram in [&b""[..], b"one", b"too long"] {
        let size = datagram.len();
        assert_eq!(send_to_path(a.as_raw_fd(), datagram), Ok(size));
        let got = receive_from_path(b.as_raw_fd(), &mut buffer).unwrap();
        assert_eq!(buffer[..got], datagram[..size.min(4)]);
    }
    assert_eq!(receive_from_path(b.as_raw_fd(), &mut []), Err(libc::EAGAIN));
    let full = (0..1_000_000).find_map(|_| send_to_path(a.as_raw_fd(), &[7; 1000]).err());
    assert_eq!(full, Some(libc::EAGAIN));
    drop(b);
    // And no signal.
    let gone = send_to_path(a.as_raw_fd(), b"hello").unwrap_err();
    assert!([libc::ECONNREFUSED, libc::EPIPE].contains(&gone), "{gone}");
}

#[test]
fn a_descriptor_that_is_none_is_an_error_everywhere() {
    let way = way("127.0.0.1:9".parse().unwrap());
    let piece = [IoSlice::new(b"hello")];
    assert_eq!(receive(NO_FD, &mut [0; 9]).unwrap_err(), libc::EBADF);
    assert_eq!(send(NO_FD, &piece, &way), Err(libc::EBADF));
    assert_eq!(send_to_path(NO_FD, b"hello"), Err(libc::EBADF));
    assert_eq!(receive_from_path(NO_FD, &mut [0; 9]), Err(libc::EBADF));
    assert_eq!(read(NO_FD, &mut [0; 9]), Err(libc::EBADF));
    assert_eq!(writev(NO_FD, &piece), Err(libc::EBADF));
    assert!(!has_gso(NO_FD) && !has_gro(NO_FD));
    disable_gro(NO_FD);
    let (other, _end) = UnixDatagram::pair().unwrap();
    assert!(!has_gso(other.as_raw_fd()) && !has_gro(other.as_raw_fd()));
}

#[test]
fn pieces_are_written_as_one_message() {
    let (a, b) = UnixDatagram::pair().unwrap();
    let pieces = [&b"he"[..], b"", b"llo"].map(IoSlice::new);
    assert_eq!(writev(a.as_raw_fd(), &pieces), Ok(5));
    assert_eq!(writev(a.as_raw_fd(), &[IoSlice::new(b"!")]), Ok(1));
    let mut buffer = [0; 9];
    assert_eq!(read(b.as_raw_fd(), &mut buffer), Ok(5));
    assert_eq!(&buffer[..5], b"hello");
    assert_eq!(read(b.as_raw_fd(), &mut buffer[..1]), Ok(1));
    // More than IOV_MAX.
    let many = vec![IoSlice::new(b"x"); 1025];
    assert_eq!(writev(a.as_raw_fd(), &many), Err(libc::EINVAL));
}

#[test]
fn random_bytes_fill_what_they_are_asked_for() {
    let (mut one, mut other) = (vec![0; 200], vec![0; 200]);
    assert!(random(&mut one) && random(&mut other) && random(&mut []));
    assert_ne!(one, other);
}

#[test]
fn the_boot_clock_goes_forward() {
    let before = boot_ns();
    assert!(before > 0 && boot_ns() >= before);
}

#[test]
fn an_event_is_readable_once_signalled() {
    let event = EventFd::new().unwrap();
    let mut poller = Poller::default();
    let mut interests = [
        Interest {
            fd: event.fd(),
            ready: false,
        },
        Interest {
            fd: NO_FD,
            ready: true,
        },
    ];
    poller.wait(&mut interests, 0);
    assert!(!interests[0].ready && !interests[1].ready);
    event.signal();
    poller.wait(&mut interests, -1);
    assert!(interests[0].ready);
    event.clear();
    poller.wait(&mut interests, 0);
    assert!(!interests[0].ready);
}

#[test]
fn a_poller_looks_at_more_or_fewer_than_before_and_at_what_is_wrong() {
    let events: Vec<EventFd> = (0..40).map(|_| EventFd::new().unwrap()).collect();
    let mut interests: Vec<Interest> = events
        .iter()
        .map(|event| Interest {
            fd: event.fd(),
            ready: false,
        })
        .collect();
    events[3].signal();
    events[39].signal();
    let mut poller = Poller::default();
    for count in [4, 40, 0, 1, 40] {
        poller.wait(&mut interests[..count], 0);
        for (number, interest) in interests[..count].iter().enumerate() {
            assert_eq!(interest.ready, [3, 39].contains(&number));
        }
    }
    let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
    drop(b);
    interests[0].fd = a.as_raw_fd();
    poller.wait(&mut interests[..1], -1);
    assert!(interests[0].ready, "its other end is gone");
}
