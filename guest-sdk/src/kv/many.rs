//! Reading several entries in one call.

use super::{Collection, Entry, decode};
use crate::{Error, sys};
use kvasm_abi::{Address, EntryHeader, FORMAT_JSON, Records, Slot, encode_records};
use serde::de::DeserializeOwned;

/// Returns entries of one or several collections with their versions, in the order of the keys;
/// `None` for an entry that does not exist.
///
/// At most 1,000 keys, and 4 MiB of values.
///
/// # Errors
/// [`Error::TooLarge`] over these limits; otherwise as [`Collection::get`], for any of the
/// keys.
///
/// ```
/// use kvasm_guest::kv;
///
/// let (stock, prices) = (kv::collection("stock"), kv::collection("prices"));
/// let version = stock.set("paper", &12)?;
/// let found = kv::get_many::<u32>(&[(&stock, "paper"), (&prices, "paper")])?;
/// let paper = found[0].as_ref().expect("it was just written");
/// assert_eq!((paper.value, paper.version), (12, version));
/// assert_eq!(found[1], None);
/// # Ok::<(), kvasm_guest::Error>(())
/// ```
pub fn get_many<T: DeserializeOwned>(
    keys: &[(&Collection, &str)],
) -> Result<Vec<Option<Entry<T>>>, Error> {
    fetch(keys, |key, header, value| {
        if i32::try_from(header.format) != Ok(FORMAT_JSON) {
            return Err(Error::Type(format!(
                "the entry {key:?} holds bytes, not JSON"
            )));
        }
        Ok(Entry::new(key, header, decode(key, value)?))
    })
}

/// Like [`get_many`], as bytes; a JSON value is returned as its text.
///
/// # Errors
/// As [`get_many`], but entries of either format are accepted.
pub fn get_many_bytes(keys: &[(&Collection, &str)]) -> Result<Vec<Option<Entry<Vec<u8>>>>, Error> {
    fetch(keys, |key, header, value| {
        Ok(Entry::new(key, header, value.to_vec()))
    })
}

impl Collection {
    /// Returns the values of several keys, in order; `None` for an entry that does not exist.
    /// [`get_many`] also returns the versions.
    ///
    /// # Errors
    /// As [`get_many`].
    ///
    /// ```
    /// use kvasm_guest::kv;
    ///
    /// let stock = kv::collection("stock");
    /// stock.set("paper", &12)?;
    /// assert_eq!(stock.get_many(&["ink", "paper"])?, [None, Some(12)]);
    /// # Ok::<(), kvasm_guest::Error>(())
    /// ```
    pub fn get_many<T: DeserializeOwned>(
        &self,
        keys: &[impl AsRef<str>],
    ) -> Result<Vec<Option<T>>, Error> {
        let keys: Vec<(&Collection, &str)> = keys.iter().map(|key| (self, key.as_ref())).collect();
        let entries = get_many(&keys)?.into_iter();
        Ok(entries
            .map(|entry| entry.map(|entry| entry.value))
            .collect())
    }
}

fn fetch<T>(
    keys: &[(&Collection, &str)],
    entry: impl Fn(&str, EntryHeader, &[u8]) -> Result<Entry<T>, Error>,
) -> Result<Vec<Option<Entry<T>>>, Error> {
    let addresses = keys.iter().map(|(collection, key)| Address {
        collection: collection.name.as_bytes(),
        key: key.as_bytes(),
    });
    let addresses: Vec<Address<'_>> = addresses.collect();
    let mut packed = Vec::new();
    encode_records(&addresses, &mut |piece: &[u8]| {
        packed.extend_from_slice(piece)
    });
    let answer = sys::kv_get_many(&packed)?;
    let slots = Records::<Slot<'_>>::decode(&answer)
        .ok()
        .filter(|slots| slots.len() == keys.len())
        .ok_or_else(|| Error::malformed("kv_get_many"))?;
    keys.iter()
        .zip(slots)
        .map(|((_, key), Slot(found))| {
            found
                .map(|(header, value)| entry(key, header, value))
                .transpose()
        })
        .collect()
}
