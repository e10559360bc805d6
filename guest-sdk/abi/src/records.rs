//! Counted sequences of packed records: `count: u32`, then the records, and nothing after them.

use crate::bytes::{Bytes, Malformed};
use core::iter::FusedIterator;
use core::marker::PhantomData;

/// A record of a packed sequence.
pub trait Record<'a>: Sized {
    /// Splits a record off the front of `bytes`.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes end within the record, or one of its numbers is invalid.
    fn decode(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Malformed>;

    /// Passes the record's bytes to `sink`, piece by piece.
    fn encode(&self, sink: &mut impl FnMut(&[u8]));
}

/// Passes a whole sequence to `sink`: the count, then each record.
///
/// ```
/// use kvasm_abi::{Address, Records, encode_records};
///
/// let keys = [Address { collection: b"notes", key: b"today" }];
/// let mut packed = Vec::new();
/// encode_records(&keys, &mut |bytes: &[u8]| packed.extend_from_slice(bytes));
/// assert!(Records::<Address<'_>>::decode(&packed).unwrap().eq(keys));
/// ```
pub fn encode_records<'a, T: Record<'a>>(records: &[T], sink: &mut impl FnMut(&[u8])) {
    // More than 4 Gi records fit no guest; readers report a truncated count as malformed.
    let count = u32::try_from(records.len()).unwrap_or(u32::MAX);
    sink(&count.to_le_bytes());
    records.iter().for_each(|record| record.encode(sink));
}

/// An iterator over the records of a sequence that was validated before, so that no record is
/// malformed.
#[derive(Debug)]
pub struct Records<'a, T> {
    left: u32,
    rest: &'a [u8],
    record: PhantomData<fn() -> T>,
}

// A derived implementation would require `T: Clone`.
impl<T> Clone for Records<'_, T> {
    fn clone(&self) -> Self {
        Records { ..*self }
    }
}

impl<'a, T: Record<'a>> Records<'a, T> {
    /// Decodes and validates a sequence. The time depends on the number of bytes, not on the
    /// count that they announce.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes end before the records do, or continue after them.
    pub fn decode(bytes: &'a [u8]) -> Result<Records<'a, T>, Malformed> {
        let (records, rest) = Records::split(bytes)?;
        if rest.is_empty() {
            Ok(records)
        } else {
            Err(Malformed)
        }
    }

    /// Splits a sequence off the front of `bytes`.
    pub(crate) fn split(bytes: &'a [u8]) -> Result<(Records<'a, T>, &'a [u8]), Malformed> {
        let mut reader = Bytes(bytes);
        let count = reader.u32()?;
        let start = reader.0;
        for _ in 0..count {
            let (_, rest) = T::decode(reader.0)?;
            reader.0 = rest;
        }
        let records = Records {
            left: count,
            rest: start,
            record: PhantomData,
        };
        Ok((records, reader.0))
    }
}

impl<'a, T: Record<'a>> Iterator for Records<'a, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.left = self.left.checked_sub(1)?;
        // Validated before, so it does not fail.
        let (record, rest) = T::decode(self.rest).ok()?;
        self.rest = rest;
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}

impl<'a, T: Record<'a>> ExactSizeIterator for Records<'a, T> {}
impl<'a, T: Record<'a>> FusedIterator for Records<'a, T> {}

/// A position of a failed check, as `kv_commit` returns them on a conflict, in the order of the
/// checks.
impl<'a> Record<'a> for u32 {
    fn decode(bytes: &'a [u8]) -> Result<(u32, &'a [u8]), Malformed> {
        let mut reader = Bytes(bytes);
        Ok((reader.u32()?, reader.0))
    }

    fn encode(&self, sink: &mut impl FnMut(&[u8])) {
        sink(&self.to_le_bytes());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec;

    pub(crate) fn packed<'a, T: Record<'a>>(records: &[T]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_records(records, &mut |piece: &[u8]| bytes.extend_from_slice(piece));
        bytes
    }

    /// Asserts that `bytes` decodes only as a whole.
    pub(crate) fn assert_only_whole(bytes: &[u8], is_ok: impl Fn(&[u8]) -> bool) {
        assert!(is_ok(bytes));
        for len in 0..bytes.len() {
            assert!(!is_ok(&bytes[..len]), "the first {len} bytes");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(!is_ok(&longer), "a byte too many");
    }

    #[test]
    fn record_sequence_round_trips() {
        let positions = [0u32, 7, u32::MAX];
        let bytes = packed(&positions);
        let records = Records::<u32>::decode(&bytes).unwrap();
        assert_eq!(records.len(), 3);
        assert!(records.clone().eq(positions));
        assert_only_whole(&bytes, |bytes| Records::<u32>::decode(bytes).is_ok());
        assert_eq!(Records::<u32>::decode(&[0; 4]).unwrap().count(), 0);
    }

    #[test]
    fn record_count_beyond_the_buffer_is_malformed() {
        let bytes = [0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0];
        assert!(Records::<u32>::decode(&bytes).is_err());
    }
}
