//! Which workers are awake.
//!
//! Waking a worker costs more than most packets, so no more are awake than have work: one
//! watches the descriptors when there is nothing to do, the others sleep until somebody who
//! is at it without a pause calls them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Who does what.
///
/// INVARIANT: nobody falls asleep unless another one watches, and who watches works when it
/// has seen something; so there is always one who works or watches.
#[derive(Debug)]
pub struct Roster {
    people: Mutex<People>,
    called: Condvar,
    /// Those who sleep and were not called: the same as in `people`, to look at in passing.
    asleep: AtomicUsize,
}

#[derive(Debug)]
struct People {
    working: usize,
    asleep: usize,
    calls: usize,
    is_watched: bool,
    is_over: bool,
}

impl Roster {
    /// All of them work at first.
    pub fn new(workers: usize) -> Self {
        Self {
            people: Mutex::new(People {
                working: workers,
                asleep: 0,
                calls: 0,
                is_watched: false,
                is_over: false,
            }),
            called: Condvar::new(),
            asleep: AtomicUsize::new(0),
        }
    }

    /// A worker has found nothing to do: it watches if nobody does, and else sleeps until
    /// it is called.
    ///
    /// `all_rest` is called if it was the last who worked, before it rests.
    pub fn rest(&self, all_rest: impl FnOnce(), watch: impl FnOnce()) {
        let mut people = self.lock();
        if people.is_over {
            return;
        }
        people.working -= 1;
        if people.working == 0 {
            all_rest();
        }
        if people.is_watched {
            people.asleep += 1;
            self.count(&people);
            while people.calls == 0 && !people.is_over {
                people = self
                    .called
                    .wait(people)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            // Who calls has counted the one who wakes among those who work.
            people.calls = people.calls.saturating_sub(1);
            return;
        }
        people.is_watched = true;
        drop(people);
        watch();
        let mut people = self.lock();
        people.is_watched = false;
        people.working += 1;
    }

    /// There is more to do than those can who are awake.
    pub fn call_one(&self) {
        if self.asleep.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut people = self.lock();
        if people.asleep > 0 {
            people.asleep -= 1;
            people.working += 1;
            people.calls += 1;
            self.count(&people);
            self.called.notify_one();
        }
    }

    /// Nobody sleeps any more.
    pub fn dismiss(&self) {
        self.lock().is_over = true;
        self.called.notify_all();
    }

    fn count(&self, people: &People) {
        self.asleep.store(people.asleep, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, People> {
        self.people.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, mpsc};
    use std::thread;

    #[test]
    fn the_first_who_rests_watches_and_the_next_sleeps_until_called() {
        let roster = Arc::new(Roster::new(2));
        let (saw, see) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let watching = {
            let (roster, tell) = (roster.clone(), tell.clone());
            thread::spawn(move || {
                let watch = || {
                    tell.send("watches").unwrap();
                    see.recv().unwrap();
                };
                roster.rest(|| unreachable!("another one works"), watch);
            })
        };
        assert_eq!(told.recv(), Ok("watches"));
        let sleeping = {
            let roster = roster.clone();
            thread::spawn(move || {
                roster.rest(
                    || tell.send("all rest").unwrap(),
                    || unreachable!("one is enough"),
                );
                tell.send("woke").unwrap();
            })
        };
        assert_eq!(told.recv(), Ok("all rest"));
        saw.send(()).unwrap();
        watching.join().unwrap();
        // He works without a pause, and calls for help; once somebody sleeps it comes.
        while roster.asleep.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        roster.call_one();
        assert_eq!(told.recv(), Ok("woke"));
        sleeping.join().unwrap();
        assert_eq!(roster.lock().working, 2);
    }

    #[test]
    fn a_call_when_nobody_sleeps_is_not_kept() {
        let roster = Roster::new(1);
        roster.call_one();
        assert_eq!(roster.lock().calls, 0);
    }

    #[test]
    fn nobody_sleeps_through_the_end() {
        let roster = Arc::new(Roster::new(3));
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let watching = {
            let (roster, tell) = (roster.clone(), tell.clone());
            thread::spawn(move || {
                roster.rest(
                    || (),
                    || {
                        tell.send(()).unwrap();
                        ended.recv().unwrap();
                    },
                );
            })
        };
        told.recv().unwrap();
        let sleeping = [(), ()].map(|()| {
            let roster = roster.clone();
            thread::spawn(move || roster.rest(|| (), || ()))
        });
        roster.dismiss();
        end.send(()).unwrap();
        for thread in sleeping.into_iter().chain([watching]) {
            thread.join().unwrap();
        }
        roster.rest(|| unreachable!("nobody rests after the end"), || ());
    }
}
