//! A bounded memory of many owners, of which the least recently used goes first.
//!
//! Whoever fills it does so at his own expense: beyond his share he loses his own oldest,
//! and when there is no room at all whoever has most does.

use core::hash::Hash;
use std::collections::HashMap;

use crate::PeerRef;

const NONE: u32 = u32::MAX;

/// Values by owner and key.
///
/// Every value is a link of its owner's chain, from the newest to the oldest.
#[derive(Debug)]
pub struct Recent<K, V> {
    most: usize,
    most_each: usize,
    names: HashMap<(PeerRef, K), u32>,
    links: Vec<Link<K, V>>,
    free: Vec<u32>,
    /// By the number of the owner.
    chains: Vec<Chain>,
    /// Chains that have links.
    owners: usize,
}

#[derive(Debug)]
struct Link<K, V> {
    owner: PeerRef,
    key: K,
    value: V,
    newer: u32,
    older: u32,
}

#[derive(Clone, Copy, Debug)]
struct Chain {
    newest: u32,
    oldest: u32,
    count: usize,
}

const EMPTY: Chain = Chain {
    newest: NONE,
    oldest: NONE,
    count: 0,
};

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    /// For so many values together, and of one owner; at least one.
    pub fn new(most: usize, most_each: usize) -> Self {
        Self {
            most: most.clamp(1, NONE as usize),
            most_each: most_each.max(1),
            names: HashMap::new(),
            links: Vec::new(),
            free: Vec::new(),
            chains: Vec::new(),
            owners: 0,
        }
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// What is known, and nothing changes.
    pub fn get(&self, owner: PeerRef, key: &K) -> Option<&V> {
        let &at = self.names.get(&(owner, *key))?;
        Some(&self.links[at as usize].value)
    }

    /// What is known, which is the most recently used from now on.
    pub fn touch(&mut self, owner: PeerRef, key: &K) -> Option<&mut V> {
        let &at = self.names.get(&(owner, *key))?;
        if self.links[at as usize].newer != NONE {
            self.unlink(at);
            self.link(at);
        }
        Some(&mut self.links[at as usize].value)
    }

    /// Remember a value, the most recently used from now on.
    pub fn put(&mut self, owner: PeerRef, key: K, value: V) {
        if let Some(known) = self.touch(owner, &key) {
            *known = value;
            return;
        }
        self.make_room(owner);
        let link = Link {
            owner,
            key,
            value,
            newer: NONE,
            older: NONE,
        };
        let at = if let Some(at) = self.free.pop() {
            self.links[at as usize] = link;
            at
        } else {
            self.links.push(link);
            (self.links.len() - 1) as u32
        };
        self.names.insert((owner, key), at);
        self.link(at);
    }

    /// The least recently used of an owner, with its key.
    pub fn oldest(&self, owner: PeerRef) -> Option<(&K, &V)> {
        let link = self.links.get(self.chain(owner).oldest as usize)?;
        Some((&link.key, &link.value))
    }

    /// Forget the least recently used of an owner, if he has one.
    pub fn drop_oldest(&mut self, owner: PeerRef) {
        let at = self.chain(owner).oldest;
        if at == NONE {
            return;
        }
        self.unlink(at);
        self.names.remove(&(owner, self.links[at as usize].key));
        self.free.push(at);
    }

    /// Forget all that is an owner's.
    pub fn forget(&mut self, owner: PeerRef) {
        while self.chain(owner).count > 0 {
            self.drop_oldest(owner);
        }
    }

    fn chain(&self, owner: PeerRef) -> Chain {
        self.chains.get(owner.index()).copied().unwrap_or(EMPTY)
    }

    /// For one more of this owner.
    fn make_room(&mut self, owner: PeerRef) {
        let count = self.chain(owner).count;
        if count >= self.most_each {
            return self.drop_oldest(owner);
        }
        if self.len() < self.most {
            return;
        }
        // Who has more than the others on average need not be compared with them.
        if count * self.owners > self.most {
            return self.drop_oldest(owner);
        }
        let by_count = |&at: &usize| self.chains[at].count;
        if let Some(richest) = (0..self.chains.len()).max_by_key(by_count) {
            self.drop_oldest(PeerRef::from(richest as u32));
        }
    }

    /// Put a link at the new end of its owner's chain.
    fn link(&mut self, at: u32) {
        let owner = self.links[at as usize].owner.index();
        if self.chains.len() <= owner {
            self.chains.resize(owner + 1, EMPTY);
        }
        let chain = &mut self.chains[owner];
        let before = core::mem::replace(&mut chain.newest, at);
        if before == NONE {
            chain.oldest = at;
            self.owners += 1;
        }
        chain.count += 1;
        let link = &mut self.links[at as usize];
        (link.newer, link.older) = (NONE, before);
        if let Some(before) = self.links.get_mut(before as usize) {
            before.newer = at;
        }
    }

    /// Take a link out of its owner's chain.
    fn unlink(&mut self, at: u32) {
        let Link {
            owner,
            newer,
            older,
            ..
        } = self.links[at as usize];
        let chain = &mut self.chains[owner.index()];
        chain.count -= 1;
        match self.links.get_mut(newer as usize) {
            Some(link) => link.older = older,
            None => chain.newest = older,
        }
        match self.links.get_mut(older as usize) {
            Some(link) => link.newer = newer,
            None => chain.oldest = newer,
        }
        if chain.count == 0 {
            self.owners -= 1;
        }
    }
}
