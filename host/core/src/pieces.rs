//! The input of a call, in pieces.

use bytes::Bytes;
use std::fmt;

/// Bytes in one or more pieces, which clones share: the input of a call. Neither a head and a body
/// that arrived in parts nor the input of each run of a transaction needs to be copied into one
/// buffer.
///
/// Types that convert into a `Vec<u8>` convert into it: owned ones, and [`Bytes`], without a copy;
/// borrowed ones with one.
#[derive(Clone, Default)]
pub struct Pieces {
    /// The first piece is not in the list, so that a single piece needs no allocation.
    first: Bytes,
    rest: Vec<Bytes>,
    len: usize,
}

impl Pieces {
    /// Returns the total number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a piece without copying it.
    pub fn push(&mut self, piece: impl Into<Bytes>) {
        let piece = piece.into();
        if piece.is_empty() {
            return;
        }
        let is_first = self.is_empty();
        self.len = self.len.saturating_add(piece.len());
        match is_first {
            true => self.first = piece,
            false => self.rest.push(piece),
        }
    }

    /// Returns the pieces, in order. None of them is empty.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        let first = (!self.first.is_empty()).then_some(&self.first);
        first.into_iter().chain(&self.rest)
    }

    /// Copies bytes from `offset` on, up to the length of `buffer`, and returns the number copied.
    pub fn copy_to(&self, offset: usize, buffer: &mut [u8]) -> usize {
        let size = buffer.len();
        let (mut skip, mut room) = (offset, buffer);
        for piece in self.iter() {
            let Some(from) = piece.get(skip..) else {
                skip -= piece.len();
                continue;
            };
            skip = 0;
            let len = from.len().min(room.len());
            let (to, later) = room.split_at_mut(len);
            to.copy_from_slice(from.get(..len).unwrap_or_default());
            room = later;
            if room.is_empty() {
                break;
            }
        }
        size - room.len()
    }
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pieces({} bytes)", self.len)
    }
}

impl From<Bytes> for Pieces {
    fn from(bytes: Bytes) -> Pieces {
        let mut pieces = Pieces::default();
        pieces.push(bytes);
        pieces
    }
}

macro_rules! from {
    ($($from:ty),*) => {$(
        impl From<$from> for Pieces {
            fn from(bytes: $from) -> Pieces {
                Bytes::from(bytes).into()
            }
        }
    )*};
}

from!(Vec<u8>, Box<[u8]>, String);

impl From<&[u8]> for Pieces {
    fn from(bytes: &[u8]) -> Pieces {
        bytes.to_vec().into()
    }
}

impl From<&str> for Pieces {
    fn from(text: &str) -> Pieces {
        text.as_bytes().into()
    }
}

impl<const N: usize> From<&[u8; N]> for Pieces {
    fn from(bytes: &[u8; N]) -> Pieces {
        bytes.as_slice().into()
    }
}

impl<const N: usize> From<[u8; N]> for Pieces {
    fn from(bytes: [u8; N]) -> Pieces {
        bytes.as_slice().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(all: &[Vec<u8>]) -> Pieces {
        let mut pieces = Pieces::default();
        for piece in all {
            pieces.push(piece.clone());
        }
        pieces
    }

    #[test]
    fn copy_to_matches_the_concatenated_bytes() {
        let whole: Vec<u8> = (0..6).collect();
        // Each bit says whether a piece begins there; the first may then be empty.
        for begins in 0..1u32 << whole.len() {
            let mut all = vec![Vec::new()];
            for (at, &byte) in whole.iter().enumerate() {
                if (begins >> at) & 1 == 1 {
                    all.push(Vec::new());
                }
                all.last_mut().unwrap().push(byte);
            }
            let pieces = of(&all);
            assert_eq!((pieces.len(), pieces.is_empty()), (6, false));
            assert!(pieces.iter().all(|piece| !piece.is_empty()));
            for (offset, size) in (0..9).flat_map(|at| (0..9).map(move |size| (at, size))) {
                let expected: Vec<_> = whole.iter().copied().skip(offset).take(size).collect();
                let mut buffer = vec![0xEE; size];
                let len = pieces.copy_to(offset, &mut buffer);
                assert_eq!(buffer[..len], expected, "{all:?} from {offset}");
                assert!(buffer[len..].iter().all(|&byte| byte == 0xEE));
            }
        }
        let none = of(&[Vec::new()]);
        assert!(none.is_empty());
        assert_eq!(none.copy_to(0, &mut [0; 4]), 0);
    }

    #[test]
    fn converting_and_cloning_pieces_does_not_copy() {
        let at = |pieces: &Pieces| {
            pieces
                .iter()
                .map(|piece| piece.as_ptr())
                .collect::<Vec<_>>()
        };
        let (head, body) = (b"head".to_vec(), Bytes::from(vec![7; 1000]));
        let pointers = [head.as_ptr(), body.as_ptr()];
        let mut pieces = Pieces::from(head);
        pieces.push(body);
        assert_eq!(at(&pieces), pointers);
        assert_eq!(at(&pieces.clone()), pointers);
    }

    #[test]
    fn pieces_debug_output_hides_the_bytes() {
        assert_eq!(
            format!("{:?}", of(&[vec![1, 2], vec![3]])),
            "Pieces(3 bytes)"
        );
    }
}
