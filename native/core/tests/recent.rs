//! A memory that is bounded, and in which nobody suffers from what others have.
//!
//! The cases are those of `tests/datapath/test_recent.py`.

use nvpn_core::PeerRef;
use nvpn_core::recent::Recent;
use proptest::prelude::*;

type Memory = Recent<u32, u32>;

fn owner(number: u32) -> PeerRef {
    PeerRef::from(number)
}

fn fill(recent: &mut Memory, number: u32, count: u32) {
    for key in 0..count {
        recent.put(owner(number), key, key);
    }
}

fn kept(recent: &Memory, number: u32, count: u32) -> Vec<u32> {
    let is_kept = |key: &u32| recent.get(owner(number), key).is_some();
    (0..count).filter(is_kept).collect()
}

#[test]
fn an_owner_loses_what_he_has_not_used_for_longest() {
    let mut recent = Memory::new(100, 4);
    fill(&mut recent, 1, 4);
    assert_eq!(recent.touch(owner(1), &0), Some(&mut 0));
    assert_eq!(recent.get(owner(1), &1), Some(&1), "to look is not to use");
    recent.put(owner(1), 3, 33);
    recent.put(owner(1), 9, 9);
    assert_eq!(kept(&recent, 1, 10), [0, 2, 3, 9]);
    assert_eq!(recent.get(owner(1), &3), Some(&33));
    assert_eq!(recent.oldest(owner(1)), Some((&2, &2)));
    assert_eq!(recent.len(), 4);
}

#[test]
fn a_flood_costs_whoever_makes_it() {
    let mut recent = Memory::new(20, 12);
    fill(&mut recent, 1, 5);
    fill(&mut recent, 2, 5);
    fill(&mut recent, 3, 1000);
    assert_eq!(kept(&recent, 1, 5), [0, 1, 2, 3, 4]);
    assert_eq!(kept(&recent, 2, 5), [0, 1, 2, 3, 4]);
    assert_eq!(kept(&recent, 3, 1000), Vec::from_iter(990..1000));
    // Who has little gets room from who has most.
    fill(&mut recent, 4, 3);
    let counts = [1, 2, 3, 4].map(|number| kept(&recent, number, 1000).len());
    assert_eq!(counts, [5, 5, 7, 3]);
    assert_eq!(recent.len(), 20);
}

#[test]
fn what_is_an_owners_goes_with_him() {
    let mut recent = Memory::new(20, 12);
    fill(&mut recent, 1, 3);
    fill(&mut recent, 2, 2);
    recent.forget(owner(1));
    recent.forget(owner(7));
    assert_eq!(recent.len(), 2);
    assert_eq!(recent.oldest(owner(1)), None);
    assert_eq!(recent.touch(owner(1), &0), None);
    for _ in 0..3 {
        recent.drop_oldest(owner(2));
    }
    assert!(recent.is_empty());
    fill(&mut recent, 1, 12);
    assert_eq!(recent.len(), 12);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u32, u32),
    Touch(u32, u32),
    DropOldest(u32),
    Forget(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let (owner, key) = (0..4_u32, 0..6_u32);
    prop_oneof![
        3 => (owner.clone(), key.clone()).prop_map(|(owner, key)| Step::Put(owner, key)),
        2 => (owner.clone(), key).prop_map(|(owner, key)| Step::Touch(owner, key)),
        1 => owner.clone().prop_map(Step::DropOldest),
        1 => owner.prop_map(Step::Forget),
    ]
}

proptest! {
    #[test]
    fn it_is_a_list_for_each_owner_from_which_the_oldest_falls(
        steps in proptest::collection::vec(step(), 0..80)
    ) {
        let mut recent = Memory::new(9, 4);
        let mut lists = vec![Vec::<(u32, u32)>::new(); 4];
        for (number, step) in steps.into_iter().enumerate() {
            let number = number as u32;
            match step {
                Step::Put(who, key) => {
                    recent.put(owner(who), key, number);
                    let list = &mut lists[who as usize];
                    if let Some(at) = list.iter().position(|&(known, _)| known == key) {
                        list.remove(at);
                    } else if list.len() == 4 {
                        list.remove(0);
                    } else if lists.iter().map(Vec::len).sum::<usize>() == 9 {
                        // Who it was is a matter of taste where several have as much.
                        let lost = (0..4_u32).find(|&who| {
                            let oldest = lists[who as usize].first();
                            oldest.is_some_and(|(key, _)| recent.get(owner(who), key).is_none())
                        });
                        let lost = lost.expect("somebody lost his oldest") as usize;
                        let most = lists.iter().map(Vec::len).max();
                        let is_above_average = lists[lost].len() * 4 > 9;
                        prop_assert!(Some(lists[lost].len()) == most || is_above_average);
                        lists[lost].remove(0);
                    }
                    lists[who as usize].push((key, number));
                }
                Step::Touch(who, key) => {
                    let list = &mut lists[who as usize];
                    let at = list.iter().position(|&(known, _)| known == key);
                    let known = at.map(|at| {
                        let one = list.remove(at);
                        list.push(one);
                        one.1
                    });
                    prop_assert_eq!(recent.touch(owner(who), &key).copied(), known);
                }
                Step::DropOldest(who) => {
                    recent.drop_oldest(owner(who));
                    let list = &mut lists[who as usize];
                    list.drain(..list.len().min(1));
                }
                Step::Forget(who) => {
                    recent.forget(owner(who));
                    lists[who as usize].clear();
                }
            }
            for (who, list) in lists.iter().enumerate() {
                let who = owner(who as u32);
                let oldest = recent.oldest(who).map(|(&key, &value)| (key, value));
                prop_assert_eq!(oldest, list.first().copied());
                for &(key, value) in list {
                    prop_assert_eq!(recent.get(who, &key), Some(&value));
                }
            }
            prop_assert_eq!(recent.len(), lists.iter().map(Vec::len).sum::<usize>());
        }
    }
}
