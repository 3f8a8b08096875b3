//! The replay window, against the tables of the protocol and an oracle that is a set.

mod support;

use std::collections::HashSet;

use nvpn_core::constants::REJECT_AFTER_MESSAGES;
use nvpn_core::replay::{MAX_DISTANCE, ReplayWindow};
use proptest::prelude::*;
use support::*;

const W: u64 = MAX_DISTANCE;
const L: u64 = REJECT_AFTER_MESSAGES;

/// What the window must do, with all the memory it likes.
#[derive(Default)]
struct Oracle {
    greatest: Option<u64>,
    seen: HashSet<u64>,
}

impl Oracle {
    fn may_accept(&self, counter: u64) -> bool {
        let fresh = |greatest: u64| greatest.saturating_sub(counter) <= W;
        counter < L && !self.seen.contains(&counter) && self.greatest.is_none_or(fresh)
    }

    fn accept(&mut self, counter: u64) -> bool {
        if !self.may_accept(counter) {
            return false;
        }
        self.seen.insert(counter);
        self.greatest = self.greatest.max(Some(counter));
        true
    }
}

#[test]
fn each_case_of_the_table_accepts_exactly_the_marked_counters() {
    let table: [(&str, &[(u64, bool)]); 6] = [
        (
            "edge",
            &[(W + 5, true), (5, true), (5, false), (4, false), (6, true)],
        ),
        (
            "slide",
            &[
                (W, true),
                (0, true),
                (W + 1, true),
                (0, false),
                (1, true),
                (1, false),
            ],
        ),
        (
            "full turn",
            &[
                (0, true),
                (8192, true),
                (0, false),
                (8256, true),
                (64, false),
                (16384, true),
                (8192, false),
            ],
        ),
        (
            "far jump",
            &[
                (3, true),
                (81283, true),
                (73155, true),
                (73155, false),
                (73154, false),
                (73156, true),
            ],
        ),
        (
            "word edges",
            &[
                (511, true),
                (512, true),
                (1023, true),
                (1024, true),
                (511, false),
                (1024, false),
            ],
        ),
        (
            "limit",
            &[
                (L - 1, true),
                (L - 1, false),
                (L, false),
                (L + 1, false),
                (u64::MAX, false),
                (L - 2, true),
                (L - 2, false),
                (L - 1 - W, true),
                (L - 2 - W, false),
                (0, false),
            ],
        ),
    ];
    for (name, counters) in table {
        let mut window = ReplayWindow::new();
        for &(counter, expected) in counters {
            assert_eq!(window.may_accept(counter), expected, "{name}: {counter}");
            assert_eq!(
                window.may_accept_run(counter, 1),
                expected,
                "{name}: {counter}"
            );
            assert_eq!(window.accept(counter), expected, "{name}: {counter}");
        }
    }
}

#[test]
fn each_vector_of_the_implementation_with_our_limits_holds() {
    let vectors = vectors();
    let case = &vectors["replay"]["wireguard_go"];
    assert_eq!(case["back"], MAX_DISTANCE);
    assert_eq!(text(case, "limit"), REJECT_AFTER_MESSAGES.to_string());
    let cases = case["cases"].as_object().unwrap();
    assert!(cases.len() >= 8);
    for (name, steps) in cases {
        let mut window = ReplayWindow::new();
        for step in steps.as_array().unwrap() {
            let (counter, expected) = (step[0].as_u64().unwrap(), step[1].as_bool().unwrap());
            assert_eq!(window.accept(counter), expected, "{name}: {counter}");
        }
    }
}

#[test]
fn a_whole_window_downwards_ends_at_its_edge() {
    for top in [W, W + 1, W + 2, W + 63, W + 64] {
        let mut window = ReplayWindow::new();
        assert!((top - W..=top).rev().all(|counter| window.accept(counter)));
        assert!(!(0..top - W).any(|counter| window.accept(counter)));
    }
}

#[test]
fn asking_changes_nothing() {
    let mut window = ReplayWindow::new();
    assert!(window.accept(100));
    for counter in [L - 1, 99, 10_000, 50] {
        assert!(window.may_accept(counter));
        assert!(window.may_accept_run(counter, 1));
    }
    assert_eq!(window.greatest(), Some(100));
    assert!(window.accept(101));
    assert!(window.accept(99));
}

#[test]
fn a_run_is_all_or_nothing() {
    let mut window = ReplayWindow::new();
    assert!(window.accept(510));
    assert!(!window.accept_run(500, 45));
    assert!(window.accept_run(511, 45));
    assert!(window.accept_run(500, 10));
    assert!(!window.may_accept_run(520, 3));
    assert_eq!(window.greatest(), Some(555));
}

#[test]
fn a_run_may_not_reach_the_limit() {
    let mut window = ReplayWindow::new();
    assert!(!window.accept_run(L - 44, 45));
    assert!(!window.accept_run(u64::MAX - 3, 45));
    assert!(window.accept_run(L - 45, 45));
    assert_eq!(window.greatest(), Some(L - 1));
}

#[test]
fn an_empty_run_changes_nothing() {
    let mut window = ReplayWindow::new();
    assert!(window.accept_run(1000, 0));
    assert_eq!(window.greatest(), None);
}

/// Steps of a stream that goes forward, jitters, and jumps across all the edges.
fn step() -> impl Strategy<Value = i64> {
    let edge = MAX_DISTANCE as i64;
    prop_oneof![
        8 => Just(1_i64),
        4 => -100..100_i64,
        4 => -edge - 100..0,
        2 => (prop_oneof![Just(edge), Just(8192), Just(64)], -2..3_i64).prop_map(|(a, b)| b - a),
        2 => (prop_oneof![Just(edge), Just(8192), Just(64)], -2..3_i64).prop_map(|(a, b)| a + b),
        1 => 0..1_i64 << 40,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_walks_agree_with_the_oracle(
        start in prop_oneof![4 => Just(0), 1 => L - 20_000..L + 5],
        steps in proptest::collection::vec(step(), 1..600),
    ) {
        let (mut window, mut oracle) = (ReplayWindow::new(), Oracle::default());
        let mut at = start;
        for step in steps {
            at = oracle.greatest.unwrap_or(at).saturating_add_signed(step);
            prop_assert_eq!(window.may_accept(at), oracle.may_accept(at), "{}", at);
            prop_assert_eq!(window.accept(at), oracle.accept(at), "{}", at);
            prop_assert_eq!(window.greatest(), oracle.greatest);
        }
    }

    #[test]
    fn a_run_is_what_its_counters_are_one_by_one(
        steps in proptest::collection::vec((-20_000_i64..20_000, 1_u64..9_000), 1..40),
    ) {
        let (mut by_run, mut one_by_one) = (ReplayWindow::new(), ReplayWindow::new());
        for (offset, count) in steps {
            let first = by_run.greatest().unwrap_or(0).saturating_add_signed(offset);
            let fresh = by_run.may_accept_run(first, count);
            prop_assert_eq!(by_run.accept_run(first, count), fresh);
            if fresh {
                prop_assert!((first..first + count).all(|counter| one_by_one.accept(counter)));
            } else {
                let all = (first..first + count).all(|counter| one_by_one.may_accept(counter));
                prop_assert!(!all);
            }
            prop_assert_eq!(by_run.greatest(), one_by_one.greatest());
            for counter in first.saturating_sub(70)..first + count + 70 {
                prop_assert_eq!(by_run.may_accept(counter), one_by_one.may_accept(counter));
            }
        }
    }
}
