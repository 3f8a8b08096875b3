//! The peers of a device, by name and by place.

use std::collections::HashMap;
use std::sync::Arc;

use crate::PeerId;
use crate::peer::{Peer, PeerRef};
use crate::shared::PeerShared;

/// Peers stay in their place until they are removed; places are used again.
#[derive(Debug, Default)]
pub(crate) struct PeerTable {
    places: Vec<Option<Box<Peer>>>,
    free: Vec<PeerRef>,
    names: HashMap<PeerId, PeerRef>,
}

impl PeerTable {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// Where a peer is.
    pub(crate) fn find(&self, name: PeerId) -> Option<PeerRef> {
        self.names.get(&name).copied()
    }

    /// The peer in a place.
    pub(crate) fn get(&self, at: PeerRef) -> Option<&Peer> {
        self.places.get(at.index())?.as_deref()
    }

    /// The peer in a place.
    pub(crate) fn get_mut(&mut self, at: PeerRef) -> Option<&mut Peer> {
        self.places.get_mut(at.index())?.as_deref_mut()
    }

    /// All of them.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.places.iter_mut().flatten().map(|peer| &mut **peer)
    }

    /// The names of all of them.
    pub(crate) fn names(&self) -> Vec<PeerId> {
        self.names.keys().copied().collect()
    }

    /// Make a place for a new peer. Its name is not there yet.
    pub(crate) fn insert(&mut self, name: PeerId, shared: Arc<PeerShared>) {
        let at = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            PeerRef::from((self.places.len() - 1) as u32)
        });
        self.places[at.index()] = Some(Box::new(Peer::new(name, at, shared)));
        self.names.insert(name, at);
    }

    /// Take a peer out of its place.
    pub(crate) fn remove(&mut self, name: PeerId) -> Option<(PeerRef, Box<Peer>)> {
        let at = self.names.remove(&name)?;
        self.free.push(at);
        Some((at, self.places.get_mut(at.index())?.take()?))
    }
}
