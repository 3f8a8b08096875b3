//! Transport messages that arrive together, taken many at a time.
//!
//! What one read of a socket brings is cut into runs. Each is judged, opened, and settled
//! as one batch: the same steps as for a single message in [`Device::receive`], in the same
//! order, for the same reasons. Between the steps the device may serve others.

use core::ops::Range;

use crate::Instant;
use crate::constants::{MIN_TRANSPORT_SIZE, REJECT_AFTER_MESSAGES};
use crate::datagrams::{Datagrams, MAX_DATAGRAMS};
use crate::device::{Device, Outbox};
use crate::drop_reason::DropReason;
use crate::endpoint::Endpoint;
use crate::incoming::SessionRef;
use crate::message::{MessageType, read_u32, read_u64};
use crate::secret::KEY_SIZE;
use crate::shared::Traffic;

/// Transport messages under one key, whose counters follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where each of them lies, from the first one on.
    pub messages: Datagrams,
    /// Which key they name.
    pub our_index: u32,
    /// The counter of the first one.
    pub first_counter: u64,
}

/// What is to be opened of a run.
#[derive(Clone, Copy, Debug)]
pub struct Admitted {
    /// Whose it is.
    pub session: SessionRef,
    /// The set of those that are worth it.
    pub wanted: u128,
}

impl Run {
    /// The run that `bytes` begin with; `None` if that is no transport message.
    ///
    /// Every datagram has `segment` bytes, the last one maybe less. No more than `longest`
    /// are taken.
    #[must_use]
    pub fn find(bytes: &[u8], segment: usize, longest: usize) -> Option<Self> {
        let mut end = segment.min(bytes.len());
        let first = &bytes[..end];
        let is_transport = read_u32(first, 0) == Some(MessageType::Transport as u32);
        if !is_transport || first.len() < MIN_TRANSPORT_SIZE {
            return None;
        }
        let (head, our_index) = (read_u64(first, 0), read_u32(first, 4)?);
        let first_counter = read_u64(first, 8)?;
        let mut counter = Some(first_counter);
        for _ in 1..longest.min(MAX_DATAGRAMS) {
            let next = &bytes[end..bytes.len().min(end + segment)];
            counter = counter.and_then(|counter| counter.checked_add(1));
            let follows = next.len() >= MIN_TRANSPORT_SIZE
                && read_u64(next, 0) == head
                && counter.is_some()
                && read_u64(next, 8) == counter;
            if !follows {
                break;
            }
            end += next.len();
        }
        Some(Self {
            messages: Datagrams::covering(end, segment)?,
            our_index,
            first_counter,
        })
    }

    fn count(&self) -> u64 {
        self.messages.count() as u64
    }
}

impl Device {
    /// Protocol rules 31 to 33, before anything is opened: what of a run is worth it, and
    /// under which key, which is copied into `key`. The rest is counted as dropped.
    pub fn admit(&self, run: &Run, now: Instant, key: &mut [u8; KEY_SIZE]) -> Option<Admitted> {
        let count = run.count();
        let Some((session, keypair)) = self
            .lookup(run.our_index)
            .and_then(|session| Some((session, self.session(session)?)))
        else {
            self.drop_packets(DropReason::UnknownIndex, count);
            return None;
        };
        if !keypair.may_receive_at(now) {
            self.drop_packets(DropReason::KeyExpired, count);
            return None;
        }
        let in_time = REJECT_AFTER_MESSAGES
            .saturating_sub(run.first_counter)
            .min(count);
        self.drop_packets(DropReason::KeyExpired, count - in_time);

        // The counters are checked twice: here to spare the AEAD work on plain replays, and
        // after opening, because only then are they known to come from the peer.
        let window = keypair.window();
        let wanted = if in_time == count && window.may_accept_run(run.first_counter, count) {
            run.messages.all()
        } else {
            members(0..in_time as usize, |index| {
                window.may_accept(run.first_counter + index as u64)
            })
        };
        self.drop_packets(
            DropReason::Replayed,
            in_time - u64::from(wanted.count_ones()),
        );
        if wanted == 0 {
            return None;
        }
        key.copy_from_slice(keypair.receive_key());
        Some(Admitted { session, wanted })
    }

    /// Protocol rules 34 and 35, when a run is opened: which messages are authentic and
    /// new, and all that follows from that. The rest is counted as dropped.
    ///
    /// `opened` is a subset of what was wanted. What is in the messages is for
    /// [`Device::judge`]. It may send what is staged.
    pub fn settle(
        &mut self,
        run: &Run,
        admitted: &Admitted,
        opened: u128,
        endpoint: &Endpoint,
        now: Instant,
        out: &mut dyn Outbox,
    ) -> u128 {
        let Admitted { session, wanted } = *admitted;
        self.drop_packets(
            DropReason::BadTag,
            u64::from((wanted & !opened).count_ones()),
        );
        if opened == 0 {
            return 0;
        }
        if self.session(session).is_none() {
            // Another message has promoted a newer key meanwhile.
            self.drop_packets(DropReason::UnknownIndex, u64::from(opened.count_ones()));
            return 0;
        }
        let accepted = self.accept_members(session, run, opened);
        self.drop_packets(
            DropReason::Replayed,
            u64::from((opened & !accepted).count_ones()),
        );
        if accepted != 0 {
            let mut traffic = Traffic {
                bytes: 0,
                packets: 0,
                data: false,
            };
            for range in chosen(&run.messages, accepted) {
                traffic.bytes += range.len() as u64;
                traffic.packets += 1;
                traffic.data |= range.len() > MIN_TRANSPORT_SIZE;
            }
            self.note_authentic(session, endpoint, now, traffic, out);
        }
        accepted
    }

    /// Mark those of a run that were opened; which of them are new.
    fn accept_members(&mut self, session: SessionRef, run: &Run, opened: u128) -> u128 {
        let all = run.messages.all();
        if opened == all && self.accept_run(session, run.first_counter, run.count()) {
            return opened;
        }
        members(0..run.messages.count(), |index| {
            opened >> index & 1 == 1 && self.accept(session, run.first_counter + index as u64)
        })
    }
}

/// The set of those for which it is so.
fn members(range: Range<usize>, mut is_so: impl FnMut(usize) -> bool) -> u128 {
    range.fold(0, |set, index| set | u128::from(is_so(index)) << index)
}

/// Where the members of a set lie.
pub fn chosen(messages: &Datagrams, set: u128) -> impl Iterator<Item = Range<usize>> + use<> {
    messages
        .ranges()
        .enumerate()
        .filter(move |(index, _)| set >> index & 1 == 1)
        .map(|(_, at)| at)
}
