//! Reading packed bytes: every length is checked before it is used.

/// The bytes do not match their lengths and counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// The remaining bytes.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(crate) fn sized(&mut self) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        self.take(len)
    }
}

/// Writes a length and the bytes. A length over 4 GiB, which no guest can hold, is truncated,
/// so that readers report the result as malformed.
pub(crate) fn put_sized(bytes: &[u8], sink: &mut impl FnMut(&[u8])) {
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    sink(&len.to_le_bytes());
    sink(bytes);
}
