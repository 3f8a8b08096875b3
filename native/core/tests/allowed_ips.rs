//! Cryptokey routing, against a linear list in which the longest prefix wins.

mod support;

use std::collections::HashMap;
use std::net::IpAddr;

use nvpn_core::Prefix;
use nvpn_core::allowed_ips::AllowedIps;
use proptest::prelude::*;
use support::*;

type Table = AllowedIps<u32>;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn table(prefixes: &[(u32, &str)]) -> Table {
    let mut table = Table::new();
    for &(peer, text) in prefixes {
        table.insert(prefix(text), peer);
    }
    table
}

#[test]
fn each_vector_gives_the_same_owners() {
    for case in list(vectors(), "allowed_ips") {
        let mut table = Table::new();
        for step in list(case, "ops") {
            let peer = step[2].as_u64().unwrap() as u32;
            let prefix = prefix(step[1].as_str().unwrap());
            match step[0].as_str().unwrap() {
                "add" => table.insert(prefix, peer),
                "del" => drop(table.remove(prefix, peer)),
                _ => table.remove_peer(peer),
            }
        }
        for lookup in list(case, "lookups") {
            let text = lookup[0].as_str().unwrap();
            let owner = lookup[1].as_u64().map(|owner| owner as u32);
            assert_eq!(table.lookup(address(text)), owner, "{text}");
        }
    }
}

#[test]
fn the_longest_prefix_wins_in_both_families() {
    let table = table(&[
        (0, "0.0.0.0/0"),
        (0, "::/0"),
        (1, "10.0.0.0/8"),
        (1, "fd00::/8"),
        (2, "10.1.2.3/32"),
        (2, "fd00::1/128"),
        (3, "10.1.2.2/31"),
    ]);
    for (text, owner) in [
        ("10.1.2.3", 2),
        ("10.1.2.2", 3),
        ("10.1.2.4", 1),
        ("11.0.0.0", 0),
        ("fd00::1", 2),
        ("fd00::2", 1),
        ("fe80::1", 0),
    ] {
        assert_eq!(table.lookup(address(text)), Some(owner), "{text}");
    }
}

#[test]
fn the_families_do_not_mix() {
    assert_eq!(table(&[(0, "::/0")]).lookup(address("10.0.0.1")), None);
    assert_eq!(
        table(&[(0, "0.0.0.0/0")]).lookup(address("::10.0.0.1")),
        None
    );
}

#[test]
fn host_bits_of_a_prefix_do_not_count() {
    assert_eq!(prefix("10.1.2.3/8"), prefix("10.0.0.0/8"));
    assert_eq!(format!("{:?}", prefix("10.1.2.3/8")), "10.0.0.0/8");
    assert_eq!(format!("{:?}", prefix("fd00::1/127")), "fd00::/127");
    assert!(Prefix::new(address("10.0.0.0"), 33).is_none());
    assert!(Prefix::new(address("::"), 129).is_none());
    assert!(prefix("10.0.0.0/8").contains(address("10.9.9.9")));
    assert!(!prefix("10.0.0.0/8").contains(address("11.0.0.0")));
    assert!(!prefix("::/0").contains(address("11.0.0.0")));
}

#[test]
fn a_prefix_moves_to_its_last_owner() {
    let mut table = table(&[(1, "10.0.0.0/8"), (1, "10.1.0.0/16"), (2, "10.1.0.0/16")]);
    assert_eq!(table.len(), 2);
    assert_eq!(table.lookup(address("10.1.0.1")), Some(2));
    table.remove_peer(1);
    assert_eq!(table.lookup(address("10.1.0.1")), Some(2));
    assert_eq!(table.lookup(address("10.2.0.1")), None);
}

#[test]
fn inserting_twice_is_inserting_once() {
    let mut table = table(&[(1, "10.0.0.0/8"), (1, "10.0.0.0/8")]);
    assert_eq!(table.len(), 1);
    assert!(table.remove(prefix("10.0.0.0/8"), 1));
    assert!(table.is_empty());
    assert_eq!(table.lookup(address("10.0.0.1")), None);
}

#[test]
fn only_its_owner_can_remove_a_prefix() {
    let mut table = table(&[(1, "10.0.0.0/8"), (2, "10.1.0.0/16"), (2, "10.128.0.0/16")]);
    assert!(!table.remove(prefix("10.0.0.0/8"), 2));
    assert!(!table.remove(prefix("10.0.0.0/9"), 1));
    assert!(!table.remove(prefix("10.0.0.0/7"), 1));
    assert!(!table.remove(prefix("10.0.0.0/8"), 99));
    assert_eq!(table.lookup(address("10.0.0.1")), Some(1));
}

#[test]
fn removing_a_peer_uncovers_what_lay_under_it() {
    let mut table = table(&[
        (1, "10.0.0.0/8"),
        (2, "10.1.0.0/16"),
        (2, "10.1.2.0/24"),
        (2, "fd00::/8"),
    ]);
    table.remove_peer(2);
    table.remove_peer(99);
    assert_eq!(table.lookup(address("10.1.2.3")), Some(1));
    assert_eq!(table.lookup(address("fd00::1")), None);
    assert_eq!(table.len(), 1);
}

/// Prefixes that are often inside of one another, and of any length.
fn any_prefix() -> impl Strategy<Value = Prefix> {
    let near = prop_oneof![Just(0_u128), Just(1), 0..4_u128, any::<u128>()];
    (any::<bool>(), near, 0..128_u32, 0_u8..=128).prop_map(|(is_ipv6, bits, turn, length)| {
        let bits = bits.rotate_right(turn);
        if is_ipv6 {
            Prefix::new(std::net::Ipv6Addr::from_bits(bits).into(), length).unwrap()
        } else {
            let bits = (bits >> 96) as u32 ^ bits as u32;
            Prefix::new(std::net::Ipv4Addr::from_bits(bits).into(), length.min(32)).unwrap()
        }
    })
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Prefix, u32),
    Remove(Prefix, u32),
    RemoveKnown(usize, u32),
    RemovePeer(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (any_prefix(), 0..5_u32).prop_map(|(prefix, peer)| Step::Insert(prefix, peer)),
        1 => (any_prefix(), 0..5_u32).prop_map(|(prefix, peer)| Step::Remove(prefix, peer)),
        4 => (any::<usize>(), 0..5_u32).prop_map(|(which, peer)| Step::RemoveKnown(which, peer)),
        1 => (0..6_u32).prop_map(Step::RemovePeer),
    ];
    proptest::collection::vec(step, 1..120)
}

fn longest(owners: &HashMap<Prefix, u32>, address: IpAddr) -> Option<u32> {
    owners
        .iter()
        .filter(|(prefix, _)| prefix.contains(address))
        .max_by_key(|(prefix, _)| prefix.length())
        .map(|(_, &owner)| owner)
}

fn first_address(prefix: &Prefix) -> IpAddr {
    match prefix.version() {
        4 => std::net::Ipv4Addr::from_bits((prefix.network() >> 96) as u32).into(),
        _ => std::net::Ipv6Addr::from_bits(prefix.network()).into(),
    }
}

proptest! {
    #[test]
    fn the_table_agrees_with_a_list(steps in steps(), others in any::<[u128; 4]>()) {
        let mut table = Table::new();
        let mut owners: HashMap<Prefix, u32> = HashMap::new();
        let mut known: Vec<Prefix> = Vec::new();
        for step in steps {
            match step {
                Step::Insert(prefix, peer) => {
                    table.insert(prefix, peer);
                    owners.insert(prefix, peer);
                    known.push(prefix);
                }
                Step::RemovePeer(peer) => {
                    table.remove_peer(peer);
                    owners.retain(|_, owner| *owner != peer);
                }
                Step::Remove(..) | Step::RemoveKnown(..) => {
                    let (prefix, peer) = match step {
                        Step::Remove(prefix, peer) => (prefix, peer),
                        Step::RemoveKnown(which, peer) if !known.is_empty() => {
                            (known[which % known.len()], peer)
                        }
                        _ => continue,
                    };
                    let is_owner = owners.get(&prefix) == Some(&peer);
                    prop_assert_eq!(table.remove(prefix, peer), is_owner);
                    if is_owner {
                        owners.remove(&prefix);
                    }
                }
            }
            prop_assert_eq!(table.len(), owners.len());
        }
        let addresses = known.iter().map(first_address).chain(
            others.iter().map(|&bits| std::net::Ipv6Addr::from_bits(bits).into()),
        );
        for address in addresses {
            prop_assert_eq!(table.lookup(address), longest(&owners, address), "{}", address);
        }
        for peer in 0..6 {
            table.remove_peer(peer);
        }
        prop_assert!(table.is_empty());
        // Nothing but free places is left.
        prop_assert_eq!(table.nodes(), 0);
    }
}
