//! The engine as its owner sees it: started, told, asked, closed.
//!
//! It has one thread, which runs packets to completion; see [`crate::worker`]. What others
//! share with it is small: a queue of command batches, the events, counts, and two event
//! descriptors to wake each other by.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use nvpn_core::{Command, Drops, Event, EventQueue, Instant};

use crate::sys::{Errno, EventFd, boot_ns};
use crate::worker::Worker;

/// What an engine begins with. Descriptors stay their owner's.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The overlay device: non-blocking, a packet a read, a packet a write.
    pub tun: RawFd,
    /// Whether each of these begins with a virtio-net header.
    pub vnet_hdr: bool,
    /// Whether the device takes merged TCP.
    pub tso: bool,
    /// Whether the device takes merged UDP.
    pub uso: bool,
    /// The UDP socket of IPv4; negative for off.
    pub ipv4: RawFd,
    /// The UDP socket of IPv6; negative for off.
    pub ipv6: RawFd,
    /// Whether to use merged sends.
    pub gso: bool,
    /// Whether to use merged receives.
    pub gro: bool,
    /// Whether packets may be handled several at a time.
    pub batches: bool,
    /// The tunnel's MTU, 0 for unknown.
    pub mtu: u32,
    /// UDP_MAX_SEGMENTS of this kernel.
    pub max_segments: usize,
    /// 0, or what a clock shows that only [`Engine::set_clock`] moves.
    pub now: Instant,
}

/// What the kernel does for us at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Merged TCP writes to the device.
    pub tso: bool,
    /// Merged UDP writes to the device.
    pub uso: bool,
    /// Merged sends.
    pub gso: bool,
    /// Merged receives.
    pub gro: bool,
    /// The kernel has refused merged writes.
    pub writes_refused: bool,
    /// The kernel has refused merged sends.
    pub sends_refused: bool,
}

impl Used {
    fn pack(self) -> u8 {
        [
            self.tso,
            self.uso,
            self.gso,
            self.gro,
            self.writes_refused,
            self.sends_refused,
        ]
        .iter()
        .enumerate()
        .fold(0, |bits, (index, &used)| bits | u8::from(used) << index)
    }

    fn unpack(bits: u8) -> Self {
        let [tso, uso, gso, gro, writes_refused, sends_refused] =
            [0, 1, 2, 3, 4, 5].map(|index| bits >> index & 1 == 1);
        Self {
            tso,
            uso,
            gso,
            gro,
            writes_refused,
            sends_refused,
        }
    }
}

/// What the thread and its owner have in common.
#[derive(Debug)]
pub struct Shared {
    batches: Mutex<VecDeque<(u64, Vec<Command>)>>,
    /// Something waits in `batches`, or the thread is to end.
    pending: AtomicBool,
    stop: AtomicBool,
    submitted: AtomicU64,
    acknowledged: AtomicU64,
    wake: EventFd,
    news: EventFd,
    used: AtomicU8,
    clock: AtomicU64,
    rests: AtomicU64,
    /// What happened.
    pub events: Arc<EventQueue>,
    /// What was dropped.
    pub drops: Arc<Drops>,
}

impl Shared {
    fn new(now: Instant) -> Result<Self, Errno> {
        Ok(Self {
            batches: Mutex::default(),
            pending: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            submitted: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            wake: EventFd::new()?,
            news: EventFd::new()?,
            used: AtomicU8::new(0),
            clock: AtomicU64::new(now),
            rests: AtomicU64::new(0),
            events: Arc::new(EventQueue::new()),
            drops: Arc::new(Drops::new()),
        })
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, Vec<Command>)>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rouse(&self) {
        self.pending.store(true, Ordering::Release);
        self.wake.signal();
    }

    // --- the thread's side --------------------------------------------------------------

    /// What time it is.
    #[inline]
    pub fn now(&self) -> Instant {
        match self.clock.load(Ordering::Acquire) {
            0 => boot_ns(),
            set => set,
        }
    }

    /// Whether [`Shared::next_batch`] or [`Shared::is_stopped`] has something to say.
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// Look at what is pending from now on.
    pub fn take_pending(&self) {
        self.wake.clear();
        self.pending.store(false, Ordering::SeqCst);
    }

    /// The next batch of commands and its number.
    pub fn next_batch(&self) -> Option<(u64, Vec<Command>)> {
        self.lock().pop_front()
    }

    /// A batch is in force.
    pub fn acknowledge(&self, number: u64) {
        self.acknowledged.store(number, Ordering::Release);
        self.news.signal();
    }

    /// Whether the thread is to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Tell the owner of events, if there are new ones.
    #[inline]
    pub fn announce(&self) {
        if self.events.take_news() {
            self.news.signal();
        }
    }

    /// What wakes the thread.
    pub fn wake_fd(&self) -> RawFd {
        self.wake.fd()
    }

    /// The thread goes to wait.
    pub fn note_rest(&self) {
        self.rests.fetch_add(1, Ordering::AcqRel);
    }

    /// Say what is in use now.
    pub fn set_used(&self, used: Used) {
        let bits = used.pack();
        if self.used.swap(bits, Ordering::AcqRel) != bits {
            self.news.signal();
        }
    }
}

/// What a thread does until it is told to stop.
pub trait Run {
    /// Do it.
    fn run(&mut self);

    /// Zero all keys: `run` has ended, or died.
    fn wipe(&mut self);
}

/// Run to the end, whichever it is: keys are zeroed, and a death becomes an event.
fn guard(worker: &mut impl Run, shared: &Shared) {
    let ended = catch_unwind(AssertUnwindSafe(|| worker.run()));
    let wiped = catch_unwind(AssertUnwindSafe(|| worker.wipe()));
    for failure in [ended, wiped].into_iter().filter_map(Result::err) {
        let message = describe(&*failure);
        shared.events.add(Event::Failed { message });
    }
    shared.announce();
}

/// A thread that moves packets, until it is closed or dropped.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Begin to move packets.
    ///
    /// # Errors
    /// The kernel has no thread or no descriptor to give.
    pub fn start(settings: Settings) -> Result<Self, Errno> {
        let shared = Arc::new(Shared::new(settings.now)?);
        let theirs = Arc::clone(&shared);
        let mut worker = Worker::new(settings, Arc::clone(&shared));
        let thread = Builder::new()
            .name("nvpn-datapath".to_owned())
            .spawn(move || guard(&mut worker, &theirs))
            .map_err(|error| error.raw_os_error().unwrap_or(libc::EAGAIN))?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Queue a batch of commands; returns its number.
    pub fn submit(&self, commands: Vec<Command>) -> u64 {
        let mut batches = self.shared.lock();
        let number = self.shared.submitted.fetch_add(1, Ordering::AcqRel) + 1;
        batches.push_back((number, commands));
        drop(batches);
        self.shared.rouse();
        number
    }

    /// The number of the latest batch that is in force.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Acquire)
    }

    /// See [`EventQueue::take`].
    pub fn take_events(&self, max_handshakes: usize) -> Vec<Event> {
        self.shared.events.take(max_handshakes)
    }

    /// Whether `take_events` would give anything.
    pub fn has_events(&self) -> bool {
        !self.shared.events.is_empty()
    }

    /// What was dropped.
    pub fn drops(&self) -> &Drops {
        &self.shared.drops
    }

    /// What the kernel does for us at present.
    pub fn offloads(&self) -> Used {
        Used::unpack(self.shared.used.load(Ordering::Acquire))
    }

    /// Readable when there are events or acknowledgements, until [`Engine::clear_news`].
    pub fn news_fd(&self) -> RawFd {
        self.shared.news.fd()
    }

    /// Make it unreadable; then look.
    pub fn clear_news(&self) {
        self.shared.news.clear();
    }

    /// Go by this clock from now on.
    pub fn set_clock(&self, now: Instant) {
        self.shared.clock.store(now, Ordering::Release);
    }

    /// How often the thread found nothing to do.
    pub fn rests(&self) -> u64 {
        self.shared.rests.load(Ordering::Acquire)
    }

    /// End the thread; all keys are zeroed when this returns.
    pub fn close(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.rouse();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic was caught inside and has become an event.
            let _ = thread.join();
        }
        self.shared.lock().clear();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

/// The text of a panic.
fn describe(failure: &(dyn std::any::Any + Send)) -> String {
    failure
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| failure.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "for a reason that it did not give".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{Interest, Poller};

    struct Dying {
        last_words: &'static str,
        wiped: bool,
    }

    impl Run for Dying {
        fn run(&mut self) {
            if !self.last_words.is_empty() {
                std::panic::resume_unwind(Box::new(self.last_words));
            }
        }

        fn wipe(&mut self) {
            self.wiped = true;
        }
    }

    #[test]
    fn a_thread_that_dies_has_its_keys_wiped_and_says_so_loudly() {
        let shared = Shared::new(0).unwrap();
        let mut worker = Dying {
            last_words: "index out of bounds",
            wiped: false,
        };
        guard(&mut worker, &shared);
        assert!(worker.wiped);
        let message = "index out of bounds".to_owned();
        assert_eq!(shared.events.take(9), [Event::Failed { message }]);
        let mut news = [Interest {
            fd: shared.news.fd(),
            ready: false,
        }];
        Poller::default().wait(&mut news, 0);
        assert!(news[0].ready, "whoever waits for events wakes");
    }

    #[test]
    fn a_thread_that_is_stopped_says_nothing() {
        let shared = Shared::new(0).unwrap();
        let mut worker = Dying {
            last_words: "",
            wiped: false,
        };
        guard(&mut worker, &shared);
        assert!(worker.wiped && shared.events.is_empty());
    }

    #[test]
    fn what_is_in_use_survives_its_packing() {
        for bits in 0..64 {
            assert_eq!(Used::unpack(bits).pack(), bits);
        }
    }
}
