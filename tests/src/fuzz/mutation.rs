//! Random mutations of valid input.

use kvasm_store_testing::conformance::rng::Rng;

/// The maximum length of a mutated input, in bytes.
const BYTES_MAX: usize = 8 * 1024;

/// Boundary values for lengths, counts and versions.
const NUMBERS: [u32; 12] = [
    0,
    1,
    2,
    7,
    8,
    127,
    128,
    1024,
    1025,
    0x7fff_ffff,
    0x8000_0000,
    u32::MAX,
];

/// Words that are significant to the decoders.
const WORDS: [&str; 24] = [
    "\n",
    "\r\n",
    "\0",
    "\\u0000",
    "\\ud800",
    "{\"",
    "\"}",
    "[[[[[[[[",
    "null",
    "1e400",
    "1e401",
    "-0",
    "e+308",
    "99999999999999999999",
    "\u{feff}",
    "é",
    "\u{10ffff}",
    ",\"collection\":\"c\"",
    ",\"expires_at\":1",
    ",\"bytes\":\"AA==\"",
    "\"status\":200",
    "set-cookie",
    "content-length",
    "kvasm.plugin.v1",
];

/// Returns an input close to a known one, or combined from two of them.
pub fn mutate(rng: &mut Rng, known: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = match known.is_empty() || rng.chance(1, 50) {
        true => rng.short_bytes(64),
        false => rng.pick(known).clone(),
    };
    for _ in 0..=rng.below(4) {
        change(rng, &mut bytes, known);
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

fn change(rng: &mut Rng, bytes: &mut Vec<u8>, known: &[Vec<u8>]) {
    let at = rng.below(bytes.len() + 1);
    let end = at + rng.below(bytes.len() - at + 1);
    match rng.below(9) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => {
            let again = bytes[at..end].to_vec();
            insert(bytes, at, &again);
        }
        3 => {
            let word = *rng.pick(&WORDS);
            insert(bytes, at, word.as_bytes());
        }
        4 => {
            let some = rng.short_bytes(9);
            insert(bytes, at, &some);
        }
        5 => {
            let number = rng.pick(&NUMBERS).to_le_bytes();
            // In records, lengths are aligned to four bytes.
            let at = if rng.chance(1, 2) { at - at % 4 } else { at };
            overwrite(bytes, at, &number);
        }
        6 if !known.is_empty() => {
            let other = rng.pick(known).clone();
            bytes.truncate(at);
            bytes.extend_from_slice(&other[rng.below(other.len() + 1)..]);
        }
        7 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = byte.wrapping_add_signed(if rng.chance(1, 2) { 1 } else { -1 });
            }
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << rng.below(8);
            }
        }
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, some: &[u8]) {
    bytes.splice(at..at, some.iter().copied());
}

fn overwrite(bytes: &mut [u8], at: usize, some: &[u8]) {
    for (byte, new) in bytes.iter_mut().skip(at).zip(some) {
        *byte = *new;
    }
}
