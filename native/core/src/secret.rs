//! Keys, held so that one copy exists and none stays behind.

use core::fmt;

use zeroize::Zeroize;

/// The size of every key and secret here, in bytes.
pub const KEY_SIZE: usize = 32;

/// 32 secret bytes. They stay where they were put, whoever owns them, and are zeroed when
/// dropped.
///
/// INVARIANT: they live on the heap, so that moving a `Secret` moves a pointer and leaves
/// no copy on a stack.
pub struct Secret(Box<[u8; KEY_SIZE]>);

impl Secret {
    /// Copy a secret from where somebody else keeps (and zeroes) it; `None` unless it is 32
    /// bytes.
    pub fn copy_from(bytes: &[u8]) -> Option<Self> {
        let mut secret = Self(Box::new([0; KEY_SIZE]));
        if bytes.len() != KEY_SIZE {
            return None;
        }
        secret.0.copy_from_slice(bytes);
        Some(secret)
    }

    /// To use them. Do not copy.
    pub fn expose(&self) -> &[u8; KEY_SIZE] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Two secrets in one place: what a session needs, with half of the allocator's overhead.
pub(crate) struct SecretPair(Box<[[u8; KEY_SIZE]; 2]>);

impl SecretPair {
    /// Copy both; theirs are zeroed when they are dropped.
    pub(crate) fn new(first: &Secret, second: &Secret) -> Self {
        let mut pair = Self(Box::new([[0; KEY_SIZE]; 2]));
        pair.0[0].copy_from_slice(first.expose());
        pair.0[1].copy_from_slice(second.expose());
        pair
    }

    /// To use the first. Do not copy.
    pub(crate) const fn first(&self) -> &[u8; KEY_SIZE] {
        &self.0[0]
    }

    /// To use the second. Do not copy.
    pub(crate) const fn second(&self) -> &[u8; KEY_SIZE] {
        &self.0[1]
    }
}

impl Drop for SecretPair {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_itself() {
        let secret = Secret::copy_from(&[0xA5; 32]).unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    #[test]
    fn a_secret_has_one_size() {
        assert!(Secret::copy_from(&[1; 31]).is_none());
        assert!(Secret::copy_from(&[1; 33]).is_none());
        assert_eq!(Secret::copy_from(&[1; 32]).unwrap().expose(), &[1; 32]);
    }
}
