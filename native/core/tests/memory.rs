//! What the device holds in memory: little for a peer, and no key that is gone.
//!
//! Both are asked of the kernel. One test, because each would disturb the other.

#![cfg(target_os = "linux")]

mod support;

use std::fs::{File, read_to_string};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nvpn_core::aead::wipe_stack;
use nvpn_core::{Command, NewKeypair, PeerId, PeerShared, Prefix, Role, Secret};
use support::*;

const PEERS: u64 = 10_000;

#[test]
fn peers_are_small_and_keys_leave_no_trace() {
    peers_are_small();
    keys_leave_no_trace();
}

fn resident_bytes() -> u64 {
    let statm = read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn address(number: u64) -> std::net::IpAddr {
    (0x0A00_0000 + number as u32).to_be_bytes().into()
}

fn new_keypair(number: u32, role: Role) -> NewKeypair {
    NewKeypair {
        role,
        our_index: number,
        their_index: number ^ 0xFFFF,
        send_key: secret(&[1; 32]),
        receive_key: secret(&[2; 32]),
        born_at: START,
    }
}

fn peers_are_small() {
    let mut end = End::new(MTU);
    let before = resident_bytes();
    for number in 0..PEERS {
        let peer = PeerId(number);
        let shared = Arc::new(PeerShared::new());
        end.tell(START, Command::CreatePeer { peer, shared });
        let prefix = Prefix::new(address(number), 32).unwrap();
        let diverted = false;
        end.tell(
            START,
            Command::InsertPrefix {
                peer,
                prefix,
                diverted,
            },
        );
        let endpoint = Some(bob_at());
        end.tell(START, Command::SetPeerEndpoint { peer, endpoint });
    }
    let without_keys = resident_bytes() - before;
    println!("{} bytes for a peer without keys", without_keys / PEERS);
    assert!(without_keys / PEERS <= 1024);

    // There are never more than two at a time; room for a third is left by half.
    for (offset, role) in [(0, Role::Initiator), (1, Role::Responder)] {
        for number in 0..PEERS {
            let keypair = new_keypair(2 * number as u32 + offset, role);
            let peer = PeerId(number);
            end.tell(START, Command::InstallKeypair { peer, keypair });
            end.take_datagrams();
        }
    }
    let with_two = resident_bytes() - before;
    println!("{} bytes for a peer with two keypairs", with_two / PEERS);
    let with_three = with_two + (with_two - without_keys) / 2;
    assert!(with_three / PEERS <= 4096);
}

/// Keys that look like nothing else, made so that the pattern itself is nowhere.
fn unusual_key(number: u8) -> [u8; 32] {
    std::array::from_fn(|at| disguised(number)[at] ^ 0x5C)
}

fn disguised(number: u8) -> [u8; 32] {
    std::array::from_fn(|at| (at as u8).wrapping_mul(151).wrapping_add(number) | 0x80)
}

fn take_unusual_key(number: u8) -> Secret {
    let mut bytes = unusual_key(number);
    let secret = secret(&bytes);
    zeroize::Zeroize::zeroize(&mut bytes);
    secret
}

/// How often the first half of such a key is in the memory of this process.
fn traces(number: u8) -> usize {
    let wanted = disguised(number);
    let memory = File::open("/proc/self/mem").unwrap();
    let mut found = 0;
    let mut page = vec![0; 1 << 20];
    for line in read_to_string("/proc/self/maps").unwrap().lines() {
        let mut fields = line.split_whitespace();
        let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let mut at = u64::from_str_radix(start, 16).unwrap();
        let end = u64::from_str_radix(end, 16).unwrap();
        while at < end {
            let size = page.len().min((end - at) as usize);
            let Ok(size) = memory.read_at(&mut page[..size], at) else {
                break;
            };
            // Disguised at once, so that this very buffer is no trace.
            page[..size].iter_mut().for_each(|byte| *byte ^= 0x5C);
            found += page[..size]
                .windows(16)
                .filter(|bytes| **bytes == wanted[..16])
                .count();
            at += size.max(1) as u64;
        }
    }
    page.fill(0);
    found
}

#[inline(never)]
fn use_keys() -> Ends {
    let mut ends = Ends::strangers(MTU);
    let now = ends.now;
    let keypair = |role, our_index, their_index, send, receive| NewKeypair {
        role,
        our_index,
        their_index,
        send_key: take_unusual_key(send),
        receive_key: take_unusual_key(receive),
        born_at: now,
    };
    ends.bob
        .tell(now, install(keypair(Role::Responder, 2, 1, 20, 10)));
    ends.alice
        .tell(now, install(keypair(Role::Initiator, 1, 2, 10, 20)));
    ends.settle();
    for number in 0..20 {
        ends.alice.send(&ipv4(&[number]), now);
        ends.carry_to_bob();
        ends.bob.send(&back(&[number]), now);
        ends.carry_to_alice();
    }
    assert_eq!(
        ends.bob.take_inner().len() + ends.alice.take_inner().len(),
        40
    );
    ends
}

fn keys_leave_no_trace() {
    let mut ends = use_keys();
    let now = ends.now;
    assert!(
        traces(10) >= 2 && traces(20) >= 2,
        "the search finds what is there"
    );
    ends.alice.tell(now, ERASE);
    assert!(ends.alice.device.take_keys_gone());
    ends.bob.tell(now, DESTROY);
    assert!(ends.bob.device.take_keys_gone());
    assert!(!ends.bob.device.take_keys_gone());
    wipe_stack();
    assert_eq!((traces(10), traces(20)), (0, 0));
    black_box(&ends);

    let mut ends = use_keys();
    ends.alice.device.close();
    ends.bob.device.close();
    wipe_stack();
    assert_eq!((traces(10), traces(20)), (0, 0));
}
