//! Session keys: limits, renewal, and the three slots.

mod support;

use nvpn_core::constants::{
    REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME, SECOND,
};
use nvpn_core::keypair::{Gone, Keypair, KeypairSlots};
use nvpn_core::{NewKeypair, Role, Why};
use support::secret;

const BORN: u64 = 1_000 * SECOND;
use Role::{Initiator, Responder};

fn keypair(role: Role, our_index: u32) -> Keypair {
    Keypair::new(NewKeypair {
        role,
        our_index,
        their_index: our_index + 1000,
        send_key: secret(&[b'S'; 32]),
        receive_key: secret(&[b'R'; 32]),
        born_at: BORN,
    })
}

// --- one keypair ----------------------------------------------------------------------

#[test]
fn counters_are_handed_out_once_and_in_order() {
    let mut key = keypair(Initiator, 1);
    assert_eq!(
        [1, 45, 1].map(|n| key.reserve(n, BORN)),
        [Some(0), Some(1), Some(46)]
    );
    assert_eq!(key.next_counter(), 47);
}

#[test]
fn a_reservation_is_all_or_nothing_at_the_limit() {
    let mut key = keypair(Initiator, 1);
    key.reserve(REJECT_AFTER_MESSAGES - 2, BORN).unwrap();
    assert_eq!(key.reserve(3, BORN), None);
    assert_eq!(key.reserve(u64::MAX, BORN), None);
    assert_eq!(key.reserve(2, BORN), Some(REJECT_AFTER_MESSAGES - 2));
    assert_eq!(key.reserve(1, BORN), None);
    assert!(!key.may_send_at(BORN));
}

#[test]
fn a_key_serves_for_180_seconds() {
    let mut key = keypair(Initiator, 1);
    for now in [0, BORN, BORN + REJECT_AFTER_TIME - 1] {
        assert!(key.may_send_at(now));
        assert!(key.may_receive_at(now));
    }
    for now in [BORN + REJECT_AFTER_TIME, u64::MAX] {
        assert!(!key.may_send_at(now));
        assert!(!key.may_receive_at(now));
        assert_eq!(key.reserve(1, now), None);
    }
}

#[test]
fn an_initiator_renews_once_for_age() {
    let mut key = keypair(Initiator, 1);
    assert_eq!(key.wants_after_sending(BORN + REKEY_AFTER_TIME - 1), None);
    assert_eq!(
        key.wants_after_sending(BORN + REKEY_AFTER_TIME),
        Some(Why::OldSending)
    );
    assert_eq!(key.wants_after_sending(BORN + REKEY_AFTER_TIME + 1), None);
    assert_eq!(key.wants_after_receiving(BORN + 165 * SECOND - 1), None);
    assert_eq!(
        key.wants_after_receiving(BORN + 165 * SECOND),
        Some(Why::OldReceiving)
    );
    assert_eq!(key.wants_after_receiving(BORN + 166 * SECOND), None);
}

#[test]
fn a_responder_never_renews_for_age() {
    let mut key = keypair(Responder, 1);
    for age in [120, 165, 179] {
        assert_eq!(key.wants_after_sending(BORN + age * SECOND), None);
        assert_eq!(key.wants_after_receiving(BORN + age * SECOND), None);
    }
}

#[test]
fn either_side_renews_once_after_many_messages() {
    for role in [Initiator, Responder] {
        let mut key = keypair(role, 1);
        key.reserve(REKEY_AFTER_MESSAGES, BORN).unwrap();
        assert_eq!(key.wants_after_sending(BORN), None);
        key.reserve(1, BORN).unwrap();
        assert_eq!(key.wants_after_sending(BORN), Some(Why::ManyMessages));
        assert_eq!(key.wants_after_sending(BORN), None);
    }
}

#[test]
fn no_key_shows_in_what_is_printed() {
    let key = keypair(Initiator, 0xABC);
    assert_eq!(
        format!("{key:?}"),
        "Keypair(Initiator, our_index 0x00000abc)"
    );
    let mut slots = KeypairSlots::default();
    slots.install(Box::new(key));
    for shown in [
        format!("{slots:?}"),
        format!("{:#?}", support::install(new())),
    ] {
        assert!(!shown.contains("83") && !shown.contains("82"), "{shown}");
    }
    assert!(format!("{:?}", new()).contains("send_key: Secret(..)"));
}

fn new() -> NewKeypair {
    NewKeypair {
        role: Responder,
        our_index: 1,
        their_index: 2,
        send_key: secret(&[83; 32]),
        receive_key: secret(&[82; 32]),
        born_at: 0,
    }
}

// --- the slots ------------------------------------------------------------------------

const NAMES: [(char, u32); 5] = [('p', 1), ('c', 2), ('n', 3), ('i', 4), ('r', 5)];

/// Slots whose keypairs have names: 'p', 'c', 'n' for those that are there at first.
fn slots(at_first: &str) -> KeypairSlots {
    let mut slots = KeypairSlots::default();
    // By what the slots themselves do: each install moves the one before it on. `previous`
    // and `next` are never there together: `next` comes only with `previous` gone.
    for (name, index) in &NAMES[..2] {
        if at_first.contains(*name) {
            slots.install(Box::new(keypair(Initiator, *index)));
        }
    }
    if at_first.contains('n') {
        slots.install(Box::new(keypair(Responder, 3)));
    }
    slots
}

fn state(slots: &KeypairSlots) -> String {
    let current = slots.current().map(Keypair::our_index);
    let (mut previous, mut now, mut next) = ('-', '-', '-');
    for (name, index) in NAMES {
        if Some(index) == current {
            now = name;
        } else if slots.is_next(index) {
            next = name;
        } else if slots.find(index).is_some() {
            previous = name;
        }
    }
    [previous, now, next].iter().collect()
}

fn names(gone: &Gone) -> String {
    let mut names: Vec<char> = gone
        .iter()
        .flatten()
        .map(|key| {
            NAMES
                .iter()
                .find(|(_, index)| *index == key.our_index())
                .unwrap()
                .0
        })
        .collect();
    names.sort_unstable();
    names.into_iter().collect()
}

#[test]
fn a_keypair_that_we_initiated_becomes_current() {
    for (before, after, gone) in [
        ("", "-i-", ""),
        ("c", "ci-", ""),
        ("pc", "ci-", "p"),
        ("n", "ni-", ""),
        ("cn", "ni-", "c"),
    ] {
        let mut slots = slots(before);
        let left = slots.install(Box::new(keypair(Initiator, 4)));
        assert_eq!(
            (state(&slots).as_str(), names(&left).as_str()),
            (after, gone),
            "{before}"
        );
    }
}

#[test]
fn a_keypair_that_we_answered_becomes_next() {
    for (before, after, gone) in [
        ("", "--r", ""),
        ("c", "-cr", ""),
        ("pc", "-cr", "p"),
        ("n", "--r", "n"),
        ("cn", "-cr", "n"),
    ] {
        let mut slots = slots(before);
        let left = slots.install(Box::new(keypair(Responder, 5)));
        assert_eq!(
            (state(&slots).as_str(), names(&left).as_str()),
            (after, gone),
            "{before}"
        );
    }
}

#[test]
fn confirming_promotes_next_and_drops_what_is_older_than_current() {
    let mut slots = slots("cn");
    assert_eq!(names(&slots.confirm()), "");
    assert_eq!(state(&slots), "cn-");
    slots.install(Box::new(keypair(Responder, 5)));
    assert_eq!(state(&slots), "-nr");
    slots.install(Box::new(keypair(Initiator, 4)));
    assert_eq!(state(&slots), "ri-");
}

#[test]
fn stopping_keeps_current_for_receiving_and_forgets_next() {
    let mut slots = slots("cn");
    assert_eq!(names(&slots.stop_sending()), "n");
    assert_eq!(state(&slots), "-c-");
    let current = slots.current_mut().unwrap();
    assert!(!current.may_send_at(BORN));
    assert!(current.may_receive_at(BORN));
    assert_eq!(current.wants_after_receiving(BORN + 170 * SECOND), None);
}

#[test]
fn clearing_forgets_all() {
    let mut slots = slots("pc");
    assert_eq!(names(&slots.clear()), "cp");
    assert_eq!(state(&slots), "---");
}

#[test]
fn a_keypair_is_found_by_its_index_in_every_slot() {
    let mut slots = slots("pc");
    assert!(slots.find(1).is_some() && slots.find(2).is_some());
    assert!(slots.find(7).is_none());
    assert!(slots.find_mut(1).unwrap().window_mut().accept(9));
    assert!(!slots.find(1).unwrap().window().may_accept(9));
    assert!(slots.find(2).unwrap().window().may_accept(9));
}
