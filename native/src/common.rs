//! What the workers of an engine have in common.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nvpn_core::Device;
use nvpn_core::lane::Lane;

use crate::engine::{Settings, Shared};
use crate::roster::Roster;
use crate::sys;

/// Where datagrams come from and go to.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The UDP socket of IPv4; negative for none.
    pub ipv4: RawFd,
    /// The UDP socket of IPv6; negative for none.
    pub ipv6: RawFd,
    /// The descriptors of other paths, by their number.
    pub paths: Vec<(u32, RawFd)>,
}

/// Peers and keys, the order of work, and who is awake.
///
/// The device is locked for the moments in which it decides, never during a system call
/// or a cipher's work; except that what it sends by itself leaves before it is unlocked,
/// because nothing may overtake that. Locks are taken in this order: commands, lanes,
/// device, sources.
#[derive(Debug)]
pub struct Common {
    /// What the engine's owner sees.
    pub shared: Arc<Shared>,
    /// Datagrams on their way to the TUN device.
    pub inbound: Lane,
    /// Packets on their way to the peers, a lane for each queue of the TUN device.
    pub outbound: Box<[Lane]>,
    /// Who is awake.
    pub roster: Roster,
    /// Held by the worker that carries out commands.
    pub commands: Mutex<()>,
    device: Mutex<Device>,
    sources: Mutex<Sources>,
    /// How often `sources` was changed. It changes only while all lanes pause: whoever
    /// has entered one may rely on it.
    generation: AtomicU64,
    /// How often keys were zeroed.
    erasures: AtomicU64,
    is_device_gone: AtomicBool,
    /// Workers that have not left.
    present: AtomicUsize,
}

impl Common {
    /// For so many workers.
    pub fn new(settings: &Settings, shared: Arc<Shared>) -> Self {
        let device = Device::new(
            settings.mtu,
            Arc::clone(&shared.events),
            Arc::clone(&shared.drops),
            Box::new(sys::random),
        );
        Self {
            shared,
            inbound: Lane::new(),
            outbound: settings.tuns.iter().map(|_| Lane::new()).collect(),
            roster: Roster::new(settings.workers),
            commands: Mutex::default(),
            device: Mutex::new(device),
            sources: Mutex::new(Sources {
                ipv4: settings.ipv4,
                ipv6: settings.ipv6,
                paths: Vec::new(),
            }),
            generation: AtomicU64::new(1),
            erasures: AtomicU64::new(0),
            is_device_gone: AtomicBool::new(false),
            present: AtomicUsize::new(settings.workers),
        }
    }

    /// Let the device decide something.
    #[inline]
    pub fn with_device<R>(&self, decide: impl FnOnce(&mut Device) -> R) -> R {
        let mut device = lock(&self.device);
        let result = decide(&mut device);
        if device.take_keys_gone() {
            self.erasures.fetch_add(1, Ordering::Release);
        }
        result
    }

    /// How often keys were zeroed so far.
    #[inline]
    pub fn erasures(&self) -> u64 {
        self.erasures.load(Ordering::Acquire)
    }

    /// The number of the present sources.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The present sources, and their number.
    pub fn sources(&self) -> (u64, Sources) {
        let sources = lock(&self.sources);
        (self.generation(), sources.clone())
    }

    /// Use other sources. Only while all lanes pause.
    pub fn change_sources(&self, change: impl FnOnce(&mut Sources)) {
        let mut sources = lock(&self.sources);
        change(&mut sources);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Note that the TUN device is gone; whether that is news.
    pub fn note_device_gone(&self) -> bool {
        !self.is_device_gone.swap(true, Ordering::AcqRel)
    }

    /// The engine stops: nobody waits for anything any more.
    pub fn end(&self) {
        self.shared.stop();
        self.inbound.break_down();
        self.outbound.iter().for_each(Lane::break_down);
        self.roster.dismiss();
        self.shared.rouse();
    }

    /// A worker leaves, and the others follow. The last one zeroes all keys.
    pub fn leave(&self) {
        self.end();
        if self.present.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.with_device(Device::close);
        }
    }
}

/// Lock what stays usable whoever has panicked with it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
