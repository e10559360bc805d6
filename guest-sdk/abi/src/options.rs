//! The option structs that a guest passes by pointer.
//!
//! Each starts with `size: u32`, the size of the struct that the guest knows, and `mask: u32`,
//! a bit for each field that is set. Later versions append fields; a host that does not know a
//! bit of the mask returns `UNSUPPORTED`. All integers are little-endian. Pointers and lengths
//! are `u32`.

/// A pointer and a length in the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Range32 {
    /// The address of the first byte.
    pub ptr: u32,
    /// The number of bytes.
    pub len: u32,
}

/// Why an option struct is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionsError {
    /// `size` is below the 8 bytes of the head, or a field of the mask is past it.
    Size {
        /// The size in the struct, in bytes.
        size: u32,
        /// The size that the mask requires, in bytes.
        needs: u32,
    },
    /// The mask has a bit that this version does not know.
    UnknownBits(u32),
    /// A boolean field is neither 0 nor 1.
    NotBool(u32),
}

const HEAD: u32 = 8;

fn u32_at(bytes: &[u8], at: u32) -> Option<u32> {
    let at = at as usize;
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: u32) -> Option<u64> {
    let at = at as usize;
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

/// The fields of one option struct that its mask selects.
struct Fields<'a> {
    bytes: &'a [u8],
    size: u32,
    mask: u32,
}

impl<'a> Fields<'a> {
    fn new(bytes: &'a [u8], known: u32) -> Result<Fields<'a>, OptionsError> {
        let size = u32_at(bytes, 0).unwrap_or(0);
        let mask = u32_at(bytes, 4).unwrap_or(0);
        if size < HEAD {
            return Err(OptionsError::Size { size, needs: HEAD });
        }
        if mask & !known != 0 {
            return Err(OptionsError::UnknownBits(mask & !known));
        }
        Ok(Fields { bytes, size, mask })
    }

    /// Runs `read` for a field of `width` bytes at `at` if its bit is set.
    fn get<T>(
        &self,
        bit: u32,
        at: u32,
        width: u32,
        read: impl FnOnce(&[u8], u32) -> Option<T>,
    ) -> Result<Option<T>, OptionsError> {
        if self.mask & bit == 0 {
            return Ok(None);
        }
        let needs = at + width;
        let short = OptionsError::Size {
            size: self.size,
            needs,
        };
        if self.size < needs {
            return Err(short);
        }
        read(self.bytes, at).map(Some).ok_or(short)
    }

    fn u64(&self, bit: u32, at: u32) -> Result<Option<u64>, OptionsError> {
        self.get(bit, at, 8, u64_at)
    }

    fn u32(&self, bit: u32, at: u32) -> Result<Option<u32>, OptionsError> {
        self.get(bit, at, 4, u32_at)
    }

    fn range(&self, bit: u32, at: u32) -> Result<Option<Range32>, OptionsError> {
        self.get(bit, at, 8, |bytes, at| {
            Some(Range32 {
                ptr: u32_at(bytes, at)?,
                len: u32_at(bytes, at + 4)?,
            })
        })
    }

    fn flag(&self, bit: u32, at: u32) -> Result<bool, OptionsError> {
        match self.u32(bit, at)? {
            None | Some(0) => Ok(false),
            Some(1) => Ok(true),
            Some(other) => Err(OptionsError::NotBool(other)),
        }
    }
}

/// Writes the header and returns the mask as fields are added.
struct Writer<'a> {
    out: &'a mut [u8],
    mask: u32,
}

impl<'a> Writer<'a> {
    fn new(out: &'a mut [u8]) -> Writer<'a> {
        Writer { out, mask: 0 }
    }

    fn put(&mut self, at: u32, bytes: &[u8]) {
        let at = at as usize;
        // Offsets and widths are constants below the array's size.
        if let Some(field) = self.out.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    }

    fn u64(&mut self, bit: u32, at: u32, value: Option<u64>) {
        if let Some(value) = value {
            self.mask |= bit;
            self.put(at, &value.to_le_bytes());
        }
    }

    fn u32(&mut self, bit: u32, at: u32, value: Option<u32>) {
        if let Some(value) = value {
            self.mask |= bit;
            self.put(at, &value.to_le_bytes());
        }
    }

    fn range(&mut self, bit: u32, at: u32, value: Option<Range32>) {
        if let Some(value) = value {
            self.mask |= bit;
            self.put(at, &value.ptr.to_le_bytes());
            self.put(at + 4, &value.len.to_le_bytes());
        }
    }

    fn flag(&mut self, bit: u32, at: u32, value: bool) {
        self.u32(bit, at, value.then_some(1));
    }

    fn finish(mut self, size: u32) {
        self.put(0, &size.to_le_bytes());
        let mask = self.mask;
        self.put(4, &mask.to_le_bytes());
    }
}

/// The options of `kv_set`.
///
/// | offset | bit | field |
/// |---|---|---|
/// | 8 | 0 | `ttl_ms: u64`: the entry is absent this many milliseconds from now; at least 1 |
/// | 16 | 1 | `if_version: u64`: write only if the entry has this version; 0: only if there is no entry |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetOptions {
    /// Time to live in milliseconds.
    pub ttl_ms: Option<u64>,
    /// The version that the entry must have; 0 if it must not exist.
    pub if_version: Option<u64>,
}

impl SetOptions {
    /// The size of the struct in this version, in bytes.
    pub const SIZE: usize = 24;
    const TTL_MS: u32 = 1;
    const IF_VERSION: u32 = 1 << 1;

    /// Decodes the struct from a copy of the guest's bytes.
    pub fn decode(bytes: &[u8]) -> Result<SetOptions, OptionsError> {
        let fields = Fields::new(bytes, Self::TTL_MS | Self::IF_VERSION)?;
        Ok(SetOptions {
            ttl_ms: fields.u64(Self::TTL_MS, 8)?,
            if_version: fields.u64(Self::IF_VERSION, 16)?,
        })
    }

    /// Returns the struct's bytes.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        let mut writer = Writer::new(&mut out);
        writer.u64(Self::TTL_MS, 8, self.ttl_ms);
        writer.u64(Self::IF_VERSION, 16, self.if_version);
        writer.finish(Self::SIZE as u32);
        out
    }
}

/// The options of `kv_delete`.
///
/// | offset | bit | field |
/// |---|---|---|
/// | 8 | 0 | `if_version: u64`: delete only if the entry has this version; 0: succeed only if there is no entry |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeleteOptions {
    /// The version that the entry must have; 0 if it must not exist.
    pub if_version: Option<u64>,
}

impl DeleteOptions {
    /// The size of the struct in this version, in bytes.
    pub const SIZE: usize = 16;
    const IF_VERSION: u32 = 1;

    /// Decodes the struct from a copy of the guest's bytes.
    pub fn decode(bytes: &[u8]) -> Result<DeleteOptions, OptionsError> {
        let fields = Fields::new(bytes, Self::IF_VERSION)?;
        Ok(DeleteOptions {
            if_version: fields.u64(Self::IF_VERSION, 8)?,
        })
    }

    /// Returns the struct's bytes.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        let mut writer = Writer::new(&mut out);
        writer.u64(Self::IF_VERSION, 8, self.if_version);
        writer.finish(Self::SIZE as u32);
        out
    }
}

/// The options of `kv_list`.
///
/// | offset | bit | field |
/// |---|---|---|
/// | 8 | 0 | `prefix: ptr, len`: only keys that start with these bytes |
/// | 16 | 1 | `start: ptr, len`: only keys at or after this one |
/// | 24 | 2 | `end: ptr, len`: only keys before this one |
/// | 32 | 3 | `cursor: ptr, len`: go on where the page that gave it ended |
/// | 40 | 4 | `limit: u32`: entries in the page, 1 to the host's limit |
/// | 44 | 5 | `reverse: u32`: 1 for descending keys |
/// | 48 | 6 | `values: u32`: 1 for keys with their values |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListOptions {
    /// Only keys that start with this.
    pub prefix: Option<Range32>,
    /// Only keys at or after this.
    pub start: Option<Range32>,
    /// Only keys before this.
    pub end: Option<Range32>,
    /// Resumes after the page that returned this cursor.
    pub cursor: Option<Range32>,
    /// The maximum number of entries in the page.
    pub limit: Option<u32>,
    /// Descending key order.
    pub reverse: bool,
    /// Includes the values.
    pub values: bool,
}

impl ListOptions {
    /// The size of the struct in this version, in bytes.
    pub const SIZE: usize = 52;
    const PREFIX: u32 = 1;
    const START: u32 = 1 << 1;
    const END: u32 = 1 << 2;
    const CURSOR: u32 = 1 << 3;
    const LIMIT: u32 = 1 << 4;
    const REVERSE: u32 = 1 << 5;
    const VALUES: u32 = 1 << 6;
    const KNOWN: u32 = (1 << 7) - 1;

    /// Decodes the struct from a copy of the guest's bytes.
    pub fn decode(bytes: &[u8]) -> Result<ListOptions, OptionsError> {
        let fields = Fields::new(bytes, Self::KNOWN)?;
        Ok(ListOptions {
            prefix: fields.range(Self::PREFIX, 8)?,
            start: fields.range(Self::START, 16)?,
            end: fields.range(Self::END, 24)?,
            cursor: fields.range(Self::CURSOR, 32)?,
            limit: fields.u32(Self::LIMIT, 40)?,
            reverse: fields.flag(Self::REVERSE, 44)?,
            values: fields.flag(Self::VALUES, 48)?,
        })
    }

    /// Returns the struct's bytes.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        let mut writer = Writer::new(&mut out);
        writer.range(Self::PREFIX, 8, self.prefix);
        writer.range(Self::START, 16, self.start);
        writer.range(Self::END, 24, self.end);
        writer.range(Self::CURSOR, 32, self.cursor);
        writer.u32(Self::LIMIT, 40, self.limit);
        writer.flag(Self::REVERSE, 44, self.reverse);
        writer.flag(Self::VALUES, 48, self.values);
        writer.finish(Self::SIZE as u32);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_structs_round_trip() {
        for ttl_ms in [None, Some(1), Some(u64::MAX)] {
            for if_version in [None, Some(0), Some(7)] {
                let set = SetOptions { ttl_ms, if_version };
                assert_eq!(SetOptions::decode(&set.encode()), Ok(set));
                let delete = DeleteOptions { if_version };
                assert_eq!(DeleteOptions::decode(&delete.encode()), Ok(delete));
            }
        }
        let list = ListOptions {
            prefix: Some(Range32 { ptr: 1, len: 2 }),
            start: None,
            end: Some(Range32 { ptr: 3, len: 4 }),
            cursor: Some(Range32 { ptr: 5, len: 6 }),
            limit: Some(9),
            reverse: true,
            values: false,
        };
        assert_eq!(ListOptions::decode(&list.encode()), Ok(list));
    }

    #[test]
    fn malformed_options_report_distinct_errors() {
        let mut bytes = SetOptions {
            ttl_ms: Some(5),
            if_version: None,
        }
        .encode();
        bytes[4] = 0xff;
        assert_eq!(
            SetOptions::decode(&bytes),
            Err(OptionsError::UnknownBits(0xfc))
        );
        bytes[4] = 1;
        bytes[0] = 8;
        assert_eq!(
            SetOptions::decode(&bytes),
            Err(OptionsError::Size { size: 8, needs: 16 })
        );
        bytes[0] = 7;
        assert_eq!(
            SetOptions::decode(&bytes),
            Err(OptionsError::Size { size: 7, needs: 8 })
        );
        let mut list = ListOptions {
            reverse: true,
            ..ListOptions::default()
        }
        .encode();
        list[44] = 2;
        assert_eq!(ListOptions::decode(&list), Err(OptionsError::NotBool(2)));
        assert_eq!(
            ListOptions::decode(&[]),
            Err(OptionsError::Size { size: 0, needs: 8 })
        );
    }
}
