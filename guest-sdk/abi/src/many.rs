//! The request and the result of `kv_get_many`: keys of several collections, and a slot for
//! each, both as packed [`Records`](crate::Records).

use crate::bytes::{Bytes, Malformed, put_sized};
use crate::{EntryHeader, Record};

/// The maximum number of keys in one call of `kv_get_many`.
pub const KEYS_MAX: usize = 1000;

/// The maximum total size of the values in one result of `kv_get_many`, in bytes.
pub const MANY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The address of an entry: `collection_len: u32`, the collection, `key_len: u32`, the key. The
/// reader must check that they are UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address<'a> {
    /// The collection's name.
    pub collection: &'a [u8],
    /// The key within it.
    pub key: &'a [u8],
}

impl<'a> Record<'a> for Address<'a> {
    fn decode(bytes: &'a [u8]) -> Result<(Address<'a>, &'a [u8]), Malformed> {
        let mut reader = Bytes(bytes);
        let address = Address {
            collection: reader.sized()?,
            key: reader.sized()?,
        };
        Ok((address, reader.0))
    }

    fn encode(&self, sink: &mut impl FnMut(&[u8])) {
        put_sized(self.collection, sink);
        put_sized(self.key, sink);
    }
}

/// The entry under one key, if any: `present: u32`, and if it is 1, an [`EntryHeader`],
/// `value_len: u32` and the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot<'a>(
    /// The entry; `None` if it does not exist.
    pub Option<(EntryHeader, &'a [u8])>,
);

impl<'a> Record<'a> for Slot<'a> {
    fn decode(bytes: &'a [u8]) -> Result<(Slot<'a>, &'a [u8]), Malformed> {
        let mut reader = Bytes(bytes);
        let slot = match reader.u32()? {
            0 => Slot(None),
            1 => {
                let (header, rest) = EntryHeader::decode(reader.0)?;
                reader.0 = rest;
                Slot(Some((header, reader.sized()?)))
            }
            _ => return Err(Malformed),
        };
        Ok((slot, reader.0))
    }

    fn encode(&self, sink: &mut impl FnMut(&[u8])) {
        sink(&u32::from(self.0.is_some()).to_le_bytes());
        if let Some((header, value)) = &self.0 {
            sink(&header.encode());
            put_sized(value, sink);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Records;
    use crate::records::tests::{assert_only_whole, packed};

    #[test]
    fn packed_keys_round_trip() {
        let address = |collection, key| Address { collection, key };
        let keys = [
            address(b"c", b"k"),
            address(b"", b""),
            address(b"\0", "é".as_bytes()),
        ];
        let bytes = packed(&keys);
        assert_eq!(
            bytes[..14],
            [3, 0, 0, 0, 1, 0, 0, 0, b'c', 1, 0, 0, 0, b'k']
        );
        assert!(Records::<Address<'_>>::decode(&bytes).unwrap().eq(keys));
        assert_only_whole(&bytes, |bytes| {
            Records::<Address<'_>>::decode(bytes).is_ok()
        });
    }

    #[test]
    fn absent_value_differs_from_empty_value() {
        let header = EntryHeader {
            version: 3,
            expires_at_ms: 0,
            format: 1,
        };
        let slots = [
            Slot(None),
            Slot(Some((header, b""))),
            Slot(Some((header, b"v"))),
        ];
        let bytes = packed(&slots);
        assert!(Records::<Slot<'_>>::decode(&bytes).unwrap().eq(slots));
        assert_only_whole(&bytes, |bytes| Records::<Slot<'_>>::decode(bytes).is_ok());
        // Neither 0 nor 1.
        assert!(Records::<Slot<'_>>::decode(&[1, 0, 0, 0, 2, 0, 0, 0]).is_err());
    }
}
