//! Parts of keys in descending order.

use super::KeyPart;
use super::key::{hex_byte, push_hex};
use std::cmp::Reverse;

/// A part of a key in descending order, also beside others that ascend: `Map<(String, Desc<u64>), _>`
/// lists the players of a game by their points, the best one first.
///
/// A list in [`reverse`](super::Query::reverse) turns the order of all parts; this turns one.
///
/// ```
/// use kvasm_guest::typed::{Desc, Map};
///
/// kvasm_guest::collections! {
///     RANKS: Map<(String, Desc<u32>, String), ()> = "ranks";
/// }
///
/// for (game, points, player) in [("chess", 7, "Ada"), ("chess", 120, "Bob"), ("go", 50, "Cy")] {
///     RANKS.set((game, Desc(points), player), &())?;
/// }
/// let best = RANKS.list().prefix(("chess",)).first()?.expect("there are two");
/// assert_eq!(best.0, ("chess".to_owned(), Desc(120), "Bob".to_owned()));
/// // Those with at most 50 points.
/// let rest = RANKS.list().prefix(("chess",)).start_parts(("chess", Desc(50)));
/// assert_eq!(rest.count()?, 1);
/// # Ok::<(), kvasm_guest::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Desc<T>(pub T);

impl<T: Ord> Ord for Desc<T> {
    fn cmp(&self, other: &Desc<T>) -> std::cmp::Ordering {
        Reverse(&self.0).cmp(&Reverse(&other.0))
    }
}

impl<T: PartialOrd> PartialOrd for Desc<T> {
    fn partial_cmp(&self, other: &Desc<T>) -> Option<std::cmp::Ordering> {
        Reverse(&self.0).partial_cmp(&Reverse(&other.0))
    }
}

/// Follows the digits of a part. It sorts after all of them, so that a text sorts before those that
/// it begins.
const END: char = 'g';

/// The text of the part, each byte subtracted from 255.
impl<T: KeyPart> KeyPart for Desc<T> {
    fn write_part(&self, out: &mut String) {
        let mut text = String::new();
        self.0.write_part(&mut text);
        text.bytes().for_each(|byte| push_hex(out, !byte));
        out.push(END);
    }

    fn read_part(text: &str) -> Option<Desc<T>> {
        let digits = text.strip_suffix(END)?;
        let (pairs, odd) = digits.as_bytes().as_chunks::<2>();
        if !odd.is_empty() {
            return None;
        }
        let bytes = pairs
            .iter()
            .map(|&[high, low]| hex_byte(high, low).map(|byte| !byte));
        let bytes: Option<Vec<u8>> = bytes.collect();
        T::read_part(&String::from_utf8(bytes?).ok()?).map(Desc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<T: KeyPart>(value: T) -> String {
        let mut out = String::new();
        Desc(value).write_part(&mut out);
        out
    }

    #[track_caller]
    fn assert_descends<T: KeyPart + Clone + PartialEq + std::fmt::Debug>(ascending: &[T]) {
        let texts: Vec<String> = ascending.iter().cloned().map(text).collect();
        assert!(texts.is_sorted_by(|a, b| a > b), "{texts:?}");
        for (value, text) in ascending.iter().zip(&texts) {
            assert_eq!(Desc::read_part(text), Some(Desc(value.clone())), "{text}");
            assert!(text.bytes().all(|byte| byte > b'!'), "{text}");
        }
    }

    #[test]
    fn order_of_every_type_of_part_is_turned() {
        assert_descends(&[i64::MIN, -100, -10, -9, -1, 0, 1, 9, 10, 99, 100, i64::MAX]);
        assert_descends(&[0, 1, 9, 10, u64::MAX]);
        assert_descends(&[false, true]);
        assert_descends(&[vec![], vec![0], vec![0, 0], vec![0, 1], vec![1], vec![255]]);
        let texts = [
            "",
            "\0",
            " ",
            "!",
            "a",
            "a\0",
            "a b",
            "aa",
            "b",
            "é",
            "\u{10ffff}",
        ];
        assert_descends(&texts.map(str::to_owned));
        // Twice is the order of the part itself.
        let twice: Vec<_> = texts.map(|text| Desc(text.to_owned())).into();
        let mut descending = twice;
        descending.reverse();
        assert_descends(&descending);
    }

    #[test]
    fn text_of_no_part_is_refused() {
        for bad in ["", "g", "00", "0g", "9eCEg", "9dcfgg", "ffg", "zzg", "9dg"] {
            assert_eq!(Desc::<u8>::read_part(bad), None, "{bad}");
        }
        assert_eq!(text(5_u8), "9ecag");
        assert_eq!(Desc::<u8>::read_part("9ecag"), Some(Desc(5)));
    }

    #[test]
    fn values_sort_as_their_texts_do() {
        assert!(Desc(2) < Desc(1) && Desc("a") > Desc("b"));
        assert_eq!(
            Desc(1).partial_cmp(&Desc(1)),
            Some(std::cmp::Ordering::Equal)
        );
        assert!(Desc(f64::NAN).partial_cmp(&Desc(1.0)).is_none());
    }
}
