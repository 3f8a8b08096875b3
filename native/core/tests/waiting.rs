//! What waits is bounded: events for the protocol, packets for a session.

mod support;

use nvpn_core::constants::HANDSHAKE_QUEUE_SIZE;
use nvpn_core::event::MAX_COOKIE_REPLIES;
use nvpn_core::staging::{MAX_STAGED_BYTES, StagedPackets, StagingBudget};
use nvpn_core::{Event, EventQueue, PeerId};
use support::*;

// --- events ---------------------------------------------------------------------------

fn message(number: u16) -> Vec<u8> {
    let mut message = initiation(u32::from(number));
    message[8..10].copy_from_slice(&number.to_be_bytes());
    message
}

fn cookie_reply(number: u8) -> Vec<u8> {
    let mut reply = vec![3, 0, 0, 0, number];
    reply.resize(64, 0);
    reply
}

fn received(message: Vec<u8>) -> Event {
    Event::HandshakeReceived {
        datagram: message.into(),
        endpoint: bob_at().learned(START),
        received_at: START,
    }
}

fn add(queue: &EventQueue, message: &[u8]) -> bool {
    queue.add_handshake(message, bob_at(), START)
}

#[test]
fn it_holds_1024_handshakes_and_no_more() {
    let queue = EventQueue::new();
    assert!((0..1024).all(|n| add(&queue, &message(n))));
    assert!(!add(&queue, &message(1024)));
    assert_eq!(queue.queued_handshakes(), HANDSHAKE_QUEUE_SIZE);
    let all: Vec<_> = (0..1024).map(|n| received(message(n))).collect();
    assert_eq!(queue.take(usize::MAX), all);
    assert!(queue.is_empty());
}

#[test]
fn cookie_replies_have_a_queue_of_their_own() {
    let queue = EventQueue::new();
    let room = MAX_COOKIE_REPLIES as u8;
    assert!((0..room).all(|n| add(&queue, &cookie_reply(n))));
    assert!(!add(&queue, &cookie_reply(room)));
    assert!(!queue.is_empty());
    assert_eq!(queue.queued_handshakes(), 0);
    assert!(add(&queue, &message(1)));
    let first = [cookie_reply(0), cookie_reply(1), message(1)].map(received);
    assert_eq!(queue.take(2), first);
    let rest: Vec<_> = (2..room).map(|n| received(cookie_reply(n))).collect();
    assert_eq!(queue.take(usize::MAX), rest);
}

#[test]
fn few_handshakes_at_a_time_and_everything_else_at_once() {
    let queue = EventQueue::new();
    let gone = |n| Event::KeypairGone {
        peer: PeerId(n),
        our_index: 1,
    };
    for n in 0..10 {
        add(&queue, &message(n));
        queue.add(gone(u64::from(n)));
    }
    let mut expected: Vec<_> = (0..10).map(gone).collect();
    expected.extend((0..4).map(|n| received(message(n))));
    assert_eq!(queue.take(4), expected);
    assert_eq!(queue.queued_handshakes(), 6);
    assert_eq!(queue.take(0), []);
    assert_eq!(queue.take(9).len(), 6);
}

#[test]
fn what_packets_can_repeat_waits_once() {
    let queue = EventQueue::new();
    let (one, other) = (PeerId(1), PeerId(2));
    for n in 0..100 {
        queue.add_data(one, true);
        queue.add_data(one, false);
        queue.set_roamed(one, endpoint(&format!("192.0.2.{n}:9")));
        queue.set_roamed(other, bob_at());
    }
    let expected = [
        Event::DataSent { peer: one },
        Event::DataReceived { peer: one },
        Event::EndpointRoamed {
            peer: one,
            endpoint: endpoint("192.0.2.99:9"),
        },
        Event::EndpointRoamed {
            peer: other,
            endpoint: bob_at(),
        },
    ];
    assert_eq!(queue.take(0), expected);
    assert!(queue.is_empty());
    queue.add_data(one, true);
    queue.set_roamed(other, alice_at());
    assert_eq!(queue.take(0).len(), 2, "once taken, it may be said again");
}

#[test]
fn a_packet_that_waits_is_not_printed() {
    let mut staged = StagedPackets::default();
    staged.push(&[0x5A; 500], &mut StagingBudget::new(1000));
    assert_eq!(format!("{staged:?}"), "StagedPackets(1)");
}

#[test]
fn news_is_told_once_until_there_is_more() {
    let queue = EventQueue::new();
    assert!(!queue.take_news());
    queue.add_data(THEM, true);
    assert!(queue.take_news());
    assert!(!queue.take_news());
    add(&queue, &message(1));
    assert!(queue.take_news());
}

#[test]
fn a_handshake_message_is_not_printed() {
    let shown = format!("{:?}", received(message(0x5A5A)));
    assert!(
        shown.contains("192.0.2.2:1002") && !shown.contains("90, 90"),
        "{shown}"
    );
}

// --- packets --------------------------------------------------------------------------

fn sizes(staged: &mut StagedPackets, budget: &mut StagingBudget) -> Vec<usize> {
    staged
        .take(budget)
        .iter()
        .map(|packet| packet.len())
        .collect()
}

#[test]
fn of_200_packets_the_newest_128_are_kept_in_order() {
    let mut budget = StagingBudget::new(MAX_STAGED_BYTES);
    let mut staged = StagedPackets::default();
    let dropped: u64 = (0..200).map(|n| staged.push(&[n], &mut budget)).sum();
    assert_eq!(dropped, 72);
    let kept: Vec<u8> = staged
        .take(&mut budget)
        .iter()
        .map(|packet| packet[0])
        .collect();
    assert_eq!(kept, (72..200).collect::<Vec<u8>>());
    assert_eq!((staged.len(), budget.used()), (0, 0));
}

#[test]
fn a_full_device_takes_from_the_peer_that_asks_for_more() {
    let mut budget = StagingBudget::new(1000);
    let (mut greedy, mut modest) = (StagedPackets::default(), StagedPackets::default());
    assert_eq!(modest.push(&[0; 100], &mut budget), 0);
    for _ in 0..3 {
        assert_eq!(greedy.push(&[0; 300], &mut budget), 0);
    }
    assert_eq!(greedy.push(&[0; 301], &mut budget), 2);
    assert_eq!(sizes(&mut greedy, &mut budget), [300, 301]);
    assert_eq!(sizes(&mut modest, &mut budget), [100]);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_peer_with_nothing_to_give_loses_the_new_packet() {
    let mut budget = StagingBudget::new(1000);
    let (mut first, mut second) = (StagedPackets::default(), StagedPackets::default());
    first.push(&[0; 900], &mut budget);
    assert_eq!(second.push(&[0; 200], &mut budget), 1);
    assert!(second.is_empty());
    assert_eq!(first.len(), 1);
}

#[test]
fn a_packet_larger_than_the_budget_empties_only_its_own_queue() {
    let mut budget = StagingBudget::new(1000);
    let mut staged = StagedPackets::default();
    staged.push(&[0; 500], &mut budget);
    assert_eq!(staged.push(&[0; 2000], &mut budget), 2);
    assert_eq!(budget.used(), 0);
}
