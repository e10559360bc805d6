//! The negative status codes.

/// Why a host function rejected a call or failed. On the wire it is a negative `i64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i64)]
pub enum Status {
    /// The entry does not exist. Never confused with an empty value.
    NotFound = -1,
    /// A precondition failed.
    Conflict = -2,
    /// The caller lacks the capability.
    Denied = -3,
    /// An invalid argument: an empty collection, invalid UTF-8, NUL, malformed JSON, a foreign
    /// cursor.
    Invalid = -4,
    /// Over a size limit.
    TooLarge = -5,
    /// The app's quota is used up.
    Quota = -6,
    /// Too many calls; retry later.
    RateLimited = -7,
    /// A JSON read of bytes, or an increment of a value that is not an integer.
    Type = -8,
    /// The store is unavailable; the call may be retried.
    Unavailable = -9,
    /// A host error, logged by the host under the request id.
    Internal = -10,
    /// An unknown flag or option bit.
    Unsupported = -11,
    /// Another server cannot be reached, or gave no complete response. It may have acted on the
    /// request.
    Remote = -12,
}

impl Status {
    /// Every status, descending from -1.
    pub const ALL: [Status; 12] = [
        Status::NotFound,
        Status::Conflict,
        Status::Denied,
        Status::Invalid,
        Status::TooLarge,
        Status::Quota,
        Status::RateLimited,
        Status::Type,
        Status::Unavailable,
        Status::Internal,
        Status::Unsupported,
        Status::Remote,
    ];

    /// Returns the number on the wire.
    pub const fn code(self) -> i64 {
        self as i64
    }

    /// Returns the status of a number, or `None` for zero, success and unknown numbers.
    pub fn from_code(code: i64) -> Option<Status> {
        // They descend from -1.
        let index = usize::try_from(code.checked_neg()?.checked_sub(1)?).ok()?;
        Status::ALL.get(index).copied()
    }

    /// Returns the documented name, such as `NOT_FOUND`.
    pub const fn name(self) -> &'static str {
        match self {
            Status::NotFound => "NOT_FOUND",
            Status::Conflict => "CONFLICT",
            Status::Denied => "DENIED",
            Status::Invalid => "INVALID",
            Status::TooLarge => "TOO_LARGE",
            Status::Quota => "QUOTA",
            Status::RateLimited => "RATE_LIMITED",
            Status::Type => "TYPE",
            Status::Unavailable => "UNAVAILABLE",
            Status::Internal => "INTERNAL",
            Status::Unsupported => "UNSUPPORTED",
            Status::Remote => "REMOTE",
        }
    }
}

impl core::fmt::Display for Status {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_is_found_by_its_number_and_no_other() {
        for status in Status::ALL {
            assert_eq!(Status::from_code(status.code()), Some(status));
        }
        for code in [i64::MIN, -13, 0, 1, i64::MAX] {
            assert_eq!(Status::from_code(code), None, "{code}");
        }
    }
}
