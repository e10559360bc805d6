//! The text of typed keys, whose byte order is the order of the values.

/// A type that can be a key of a typed collection, or one part of a tuple that is a key.
///
/// The text of a part contains no character below `!`, so that a space separates the parts of a
/// tuple and sorts before all of them. Implement it for a newtype with
/// [`key_newtype!`](crate::key_newtype).
///
/// | type | text | bytes |
/// |---|---|---|
/// | `String`, `&str` | itself; in a tuple `!` and all characters below are `!` and two hex digits | its own; 3 for an escaped character |
/// | integers up to 64 bits | a letter for the number of digits, then the digits | 2 to 21 |
/// | [`TimeMs`](crate::typed::TimeMs) | as an `i64` | 14 today |
/// | `Vec<u8>`, `[u8; N]` | two hex digits for each byte | 2 for each byte |
/// | [`Uuid`](crate::typed::Uuid) | 36 characters, lower case | 36 |
/// | `bool` | `0` or `1` | 1 |
/// | [`Desc`](crate::typed::Desc) of one of these | two hex digits for each byte of its text, and `g`, in the reverse order | 2 for each byte of the text, and 1 |
pub trait KeyPart: Sized {
    /// Appends the text of a part of a tuple.
    fn write_part(&self, out: &mut String);

    /// Reads the text of a part of a tuple; `None` if it is not one.
    fn read_part(text: &str) -> Option<Self>;

    /// Appends the text of a key that is not a tuple.
    fn write_key(&self, out: &mut String) {
        self.write_part(out);
    }

    /// Reads the text of a key that is not a tuple; `None` if it is not one.
    fn read_key(text: &str) -> Option<Self> {
        Self::read_part(text)
    }
}

/// The separator of the parts of a tuple, below every character of a part.
const SEPARATOR: char = ' ';
/// Starts an escaped character, and sorts before every character that is not escaped.
const ESCAPE: char = '!';
const HEX: &[u8; 16] = b"0123456789abcdef";

pub(super) fn push_hex(out: &mut String, byte: u8) {
    for digit in [byte >> 4, byte & 15] {
        if let Some(digit) = HEX.get(usize::from(digit)) {
            out.push(char::from(*digit));
        }
    }
}

/// Reads one byte from two lower-case hex digits.
pub(super) fn hex_byte(high: u8, low: u8) -> Option<u8> {
    let digit = |ascii: u8| match ascii {
        b'0'..=b'9' => Some(ascii - b'0'),
        b'a'..=b'f' => Some(ascii - b'a' + 10),
        _ => None,
    };
    Some(digit(high)? << 4 | digit(low)?)
}

/// Appends text without characters below [`ESCAPE`].
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match u8::try_from(c) {
            Ok(low) if c <= ESCAPE => {
                out.push(ESCAPE);
                push_hex(out, low);
            }
            _ => out.push(c),
        }
    }
}

impl KeyPart for String {
    fn write_part(&self, out: &mut String) {
        escape(self, out);
    }

    fn read_part(text: &str) -> Option<String> {
        let mut out = String::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            if c < ESCAPE {
                return None;
            }
            if c != ESCAPE {
                out.push(c);
                continue;
            }
            let mut digit = || u8::try_from(chars.next()?).ok();
            let escaped = char::from(hex_byte(digit()?, digit()?)?);
            if escaped > ESCAPE {
                return None;
            }
            out.push(escaped);
        }
        Some(out)
    }

    fn write_key(&self, out: &mut String) {
        out.push_str(self);
    }

    fn read_key(text: &str) -> Option<String> {
        Some(text.to_owned())
    }
}

impl KeyPart for Vec<u8> {
    fn write_part(&self, out: &mut String) {
        self.iter().for_each(|byte| push_hex(out, *byte));
    }

    fn read_part(text: &str) -> Option<Vec<u8>> {
        let (pairs, odd) = text.as_bytes().as_chunks::<2>();
        let bytes = pairs.iter().map(|&[high, low]| hex_byte(high, low));
        odd.is_empty().then(|| bytes.collect()).flatten()
    }
}

impl<const N: usize> KeyPart for [u8; N] {
    fn write_part(&self, out: &mut String) {
        self.iter().for_each(|byte| push_hex(out, *byte));
    }

    fn read_part(text: &str) -> Option<[u8; N]> {
        Vec::read_part(text)?.try_into().ok()
    }
}

impl KeyPart for bool {
    fn write_part(&self, out: &mut String) {
        out.push(if *self { '1' } else { '0' });
    }

    fn read_part(text: &str) -> Option<bool> {
        match text {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        }
    }
}

/// Writes a letter for the number of digits, `a` for one, and the digits. A negative number has
/// `Z` for one digit, `Y` for two, and each digit subtracted from 9: both reverse the order.
fn write_integer(negative: bool, magnitude: u64, out: &mut String) {
    let digits = magnitude.to_string();
    let more = u8::try_from(digits.len().saturating_sub(1)).unwrap_or(u8::MAX);
    if negative {
        out.push(char::from(b'Z'.saturating_sub(more)));
        out.extend(digits.bytes().map(|d| char::from(b'9' + b'0' - d)));
    } else {
        out.push(char::from(b'a'.saturating_add(more)));
        out.push_str(&digits);
    }
}

fn read_integer(text: &str) -> Option<i128> {
    let (letter, digits) = text.as_bytes().split_first()?;
    let (negative, more) = match letter {
        b'a'..=b't' => (false, letter - b'a'),
        b'G'..=b'Z' => (true, b'Z' - letter),
        _ => return None,
    };
    if digits.len() != usize::from(more) + 1 {
        return None;
    }
    let mut magnitude = 0_i128;
    for (index, ascii) in digits.iter().enumerate() {
        let digit = match (ascii, negative) {
            (b'0'..=b'9', false) => ascii - b'0',
            (b'0'..=b'9', true) => b'9' - ascii,
            _ => return None,
        };
        if index == 0 && digit == 0 && (digits.len() > 1 || negative) {
            return None;
        }
        magnitude = magnitude * 10 + i128::from(digit);
    }
    Some(if negative { -magnitude } else { magnitude })
}

macro_rules! integers {
    ($($type:ty)*) => {$(
        impl KeyPart for $type {
            fn write_part(&self, out: &mut String) {
                let wide = i128::from(*self);
                let magnitude = u64::try_from(wide.unsigned_abs()).unwrap_or(u64::MAX);
                write_integer(wide < 0, magnitude, out);
            }

            fn read_part(text: &str) -> Option<$type> {
                read_integer(text)?.try_into().ok()
            }
        }
    )*};
}

integers! { u8 u16 u32 u64 i8 i16 i32 i64 }

/// A type of keys: a [`KeyPart`], or a tuple of two to four of them.
pub trait TypedKey: Sized {
    /// Reads a key from its text; `None` if it is not one.
    fn from_text(text: &str) -> Option<Self>;
}

/// A value that names a part of type `P`: the part, a reference to it, `&str` for `String`, or
/// `&[u8]` for `Vec<u8>`.
pub trait AsPart<P> {
    /// Appends the text of the part of a tuple.
    fn put_part(&self, out: &mut String);

    /// Appends the text of the key that is not a tuple.
    fn put_key(&self, out: &mut String) {
        self.put_part(out);
    }
}

impl<P: KeyPart> AsPart<P> for P {
    fn put_part(&self, out: &mut String) {
        self.write_part(out);
    }

    fn put_key(&self, out: &mut String) {
        self.write_key(out);
    }
}

impl<P: KeyPart> AsPart<P> for &P {
    fn put_part(&self, out: &mut String) {
        (*self).write_part(out);
    }

    fn put_key(&self, out: &mut String) {
        (*self).write_key(out);
    }
}

impl AsPart<String> for &str {
    fn put_part(&self, out: &mut String) {
        escape(self, out);
    }

    fn put_key(&self, out: &mut String) {
        out.push_str(self);
    }
}

impl AsPart<Vec<u8>> for &[u8] {
    fn put_part(&self, out: &mut String) {
        self.iter().for_each(|byte| push_hex(out, *byte));
    }
}

/// A value that names a key of type `K`: an [`AsPart`] of it, or a tuple of them.
pub trait AsKey<K> {
    /// Returns the text of the key.
    fn to_text(&self) -> String;
}

/// The leading parts of a tuple `K`, for a prefix or a bound: `(a,)`, `(a, b)`.
pub trait Leading<K> {
    /// Returns the prefix of exactly the keys that begin with these parts.
    fn to_prefix(&self) -> String;
}

impl<T: KeyPart> TypedKey for T {
    fn from_text(text: &str) -> Option<T> {
        T::read_key(text)
    }
}

impl<K: KeyPart, Q: AsPart<K>> AsKey<K> for Q {
    fn to_text(&self) -> String {
        let mut out = String::new();
        self.put_key(&mut out);
        out
    }
}

macro_rules! tuple {
    ($($part:ident $query:ident $index:tt),*) => {
        impl<$($part: KeyPart),*> TypedKey for ($($part,)*) {
            fn from_text(text: &str) -> Option<Self> {
                let mut parts = text.split(SEPARATOR);
                let key = ($($part::read_part(parts.next()?)?,)*);
                parts.next().is_none().then_some(key)
            }
        }

        impl<$($part, $query: AsPart<$part>),*> AsKey<($($part,)*)> for ($($query,)*) {
            fn to_text(&self) -> String {
                let mut out = String::new();
                $(
                    if $index > 0 {
                        out.push(SEPARATOR);
                    }
                    self.$index.put_part(&mut out);
                )*
                out
            }
        }

        impl<$($part, $query: AsPart<$part>),*> AsKey<($($part,)*)> for &($($query,)*) {
            fn to_text(&self) -> String {
                AsKey::<($($part,)*)>::to_text(*self)
            }
        }
    };
}

tuple!(A QA 0, B QB 1);
tuple!(A QA 0, B QB 1, C QC 2);
tuple!(A QA 0, B QB 1, C QC 2, D QD 3);

macro_rules! leading {
    ($($query:ident $part:ident $index:tt),*; $($rest:ident),*) => {
        impl<$($part, $query: AsPart<$part>,)* $($rest),*>
            Leading<($($part,)* $($rest,)*)> for ($($query,)*)
        {
            fn to_prefix(&self) -> String {
                let mut out = String::new();
                $(
                    self.$index.put_part(&mut out);
                    out.push(SEPARATOR);
                )*
                out
            }
        }
    };
}

leading!(QA A 0; B);
leading!(QA A 0; B, C);
leading!(QA A 0; B, C, D);
leading!(QA A 0, QB B 1; C);
leading!(QA A 0, QB B 1; C, D);
leading!(QA A 0, QB B 1, QC C 2; D);

/// Lets newtypes be keys, with the text of what they wrap.
///
/// ```
/// #[derive(Debug, Clone, PartialEq)]
/// struct UserId(String);
/// kvasm_guest::key_newtype!(UserId(String));
/// ```
#[macro_export]
macro_rules! key_newtype {
    ($name:ident($inner:ty)) => {
        impl $crate::typed::KeyPart for $name {
            fn write_part(&self, out: &mut ::std::string::String) {
                $crate::typed::KeyPart::write_part(&self.0, out);
            }

            fn read_part(text: &str) -> ::core::option::Option<$name> {
                <$inner as $crate::typed::KeyPart>::read_part(text).map($name)
            }

            fn write_key(&self, out: &mut ::std::string::String) {
                $crate::typed::KeyPart::write_key(&self.0, out);
            }

            fn read_key(text: &str) -> ::core::option::Option<$name> {
                <$inner as $crate::typed::KeyPart>::read_key(text).map($name)
            }
        }
    };
}
