//! Typed keys sort as their values do, and typed collections follow the untyped ones.

use kvasm_guest::typed::{AsKey, Desc, KeyPart, Leading, Map, TimeMs, TypedKey, Uuid};
use kvasm_guest::{Error, kv, testing};
use proptest::collection::vec;
use proptest::prelude::*;

type Mixed = (String, i64, Vec<u8>, u64);

fn text() -> impl Strategy<Value = String> {
    // Few characters, so that one text is often the beginning of another, and all planes.
    let near = prop::sample::select(vec!['\0', '\u{1}', ' ', '!', '"', '/', 'a', '\u{7f}']);
    let any = prop_oneof![
        near,
        any::<char>(),
        prop::char::range('\u{10000}', '\u{10ffff}')
    ];
    vec(any, 0..5).prop_map(String::from_iter)
}

fn integer() -> impl Strategy<Value = i64> {
    prop_oneof![
        any::<i64>(),
        -1_100_i64..1_100,
        Just(i64::MIN),
        Just(i64::MAX)
    ]
}

fn mixed() -> impl Strategy<Value = Mixed> {
    (text(), integer(), vec(any::<u8>(), 0..4), any::<u64>())
}

fn part<T: KeyPart>(value: &T) -> String {
    let mut out = String::new();
    value.write_part(&mut out);
    out
}

proptest! {
    #[test]
    fn tuples_sort_as_their_values_and_round_trip(a in mixed(), mut b in mixed(), same in 0..4) {
        if same > 0 { b.0.clone_from(&a.0) }
        if same > 1 { b.1 = a.1 }
        if same > 2 { b.2.clone_from(&a.2) }
        let (x, y) = (AsKey::<Mixed>::to_text(&a), AsKey::<Mixed>::to_text(&b));
        prop_assert_eq!(a.cmp(&b), x.cmp(&y), "{:?} {:?}", x, y);
        prop_assert!(!x.contains('\0'));
        prop_assert_eq!(Mixed::from_text(&x), Some(a));
    }

    #[test]
    fn prefix_selects_exactly_the_tuples_that_begin_with_it(
        a in mixed(), mut b in mixed(), same in 0..3
    ) {
        if same > 0 { b.0.clone_from(&a.0) }
        if same > 1 { b.1 = a.1 }
        let key = AsKey::<Mixed>::to_text(&b);
        let one = Leading::<Mixed>::to_prefix(&(a.0.as_str(),));
        prop_assert_eq!(key.starts_with(&one), a.0 == b.0);
        let two = Leading::<Mixed>::to_prefix(&(a.0.as_str(), a.1));
        prop_assert_eq!(key.starts_with(&two), (&a.0, a.1) == (&b.0, b.1));
        prop_assert_eq!(key < two, (&b.0, b.1) < (&a.0, a.1));
    }

    #[test]
    fn descending_parts_sort_in_reverse_beside_others(
        a in mixed(), mut b in mixed(), same in 0..3
    ) {
        type Turned = (Desc<String>, i64, Desc<Vec<u8>>, Desc<u64>);
        if same > 0 { b.0.clone_from(&a.0) }
        if same > 1 { b.1 = a.1 }
        let turned = |(s, i, v, u): Mixed| (Desc(s), i, Desc(v), Desc(u));
        let (a, b) = (turned(a), turned(b));
        let (x, y) = (AsKey::<Turned>::to_text(&a), AsKey::<Turned>::to_text(&b));
        prop_assert_eq!(a.cmp(&b), x.cmp(&y), "{:?} {:?}", x, y);
        let prefix = Leading::<Turned>::to_prefix(&(a.0.clone(), a.1));
        prop_assert_eq!(y.starts_with(&prefix), (&a.0, a.1) == (&b.0, b.1));
        prop_assert_eq!(Turned::from_text(&x), Some(a));
    }

    #[test]
    fn single_keys_sort_and_round_trip(
        (i, j) in (integer(), integer()), u in any::<[u8; 16]>(), v in any::<[u8; 16]>(),
        (s, t) in (text(), text())
    ) {
        prop_assert_eq!(part(&i).cmp(&part(&j)), i.cmp(&j));
        prop_assert_eq!(TimeMs::from_text(&part(&TimeMs(i))), Some(TimeMs(i)));
        prop_assert_eq!(part(&Uuid(u)).cmp(&part(&Uuid(v))), u.cmp(&v));
        prop_assert_eq!(Uuid::from_text(&part(&Uuid(u))), Some(Uuid(u)));
        prop_assert_eq!(AsKey::<String>::to_text(&s).cmp(&AsKey::<String>::to_text(&t)), s.cmp(&t));
    }

    #[test]
    fn each_key_has_one_text(text in "[ !\"0-9a-zA-Z]{0,8}") {
        if let Some(key) = <(String, i32)>::from_text(&text) {
            prop_assert_eq!(AsKey::<(String, i32)>::to_text(&key), text.clone());
        }
        if let Some(key) = i64::from_text(&text) {
            prop_assert_eq!(part(&key), text);
        }
    }
}

#[test]
fn texts_of_keys_are_fixed() {
    // Stored keys depend on them.
    let texts = [-1000_i64, -10, -9, -1, 0, 9, 10, i64::MAX].map(|i| part(&i));
    let expected = [
        "W8999",
        "Y89",
        "Z0",
        "Z8",
        "a0",
        "a9",
        "b10",
        "s9223372036854775807",
    ];
    assert_eq!(texts, expected);
    assert_eq!(part(&u64::MAX), "t18446744073709551615");
    let key = AsKey::<(String, u8, bool)>::to_text(&("a b!", 7_u8, true));
    assert_eq!(key, "a!20b!21 a7 1");
    assert_eq!(u8::from_text("c256"), None);
}

#[test]
fn pages_iterators_and_many_reads_cover_all_entries() {
    let map: Map<(String, u32), u32> = Map::new("m");
    for n in 0..2_500 {
        map.set(("a", n), &n).unwrap();
    }
    map.set(("b", 1), &9).unwrap();
    let all: Result<Vec<_>, _> = map.list().prefix(("a",)).reverse().entries().collect();
    let all: Vec<u32> = all.unwrap().into_iter().map(|(key, _)| key.1).collect();
    assert_eq!(all, (0..2_500).rev().collect::<Vec<_>>());
    assert_eq!(map.list().count(), Ok(2_501));
    let few = || map.list().prefix(("a",)).reverse().limit(3);
    let (few_entries, cost) = testing::cost_of(|| few().entries().collect::<Result<Vec<_>, _>>());
    let few_keys = few_entries.unwrap().into_iter().map(|(key, _)| key.1);
    assert_eq!(few_keys.collect::<Vec<_>>(), [2_499, 2_498, 2_497]);
    assert_eq!((cost.entries_read, few().count()), (3, Ok(3)));
    assert_eq!(few().limit(0).entries().count(), 0);
    assert_eq!(
        map.list().start(("a", 2_000)).end_parts(("b",)).count(),
        Ok(500)
    );
    assert_eq!(map.list().first().unwrap().unwrap().0, ("a".to_owned(), 0));
    assert_eq!(map.list().last().unwrap().unwrap().0, ("b".to_owned(), 1));

    let (mut cursor, mut count) = (None, 0);
    loop {
        let page = map.list().page(usize::MAX, cursor).unwrap();
        count += page.items.len();
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(count, 2_501);
    assert_eq!(map.list().page(0, None).unwrap().items.len(), 1);

    let many = map.get_many((0..2_502).map(|n| ("a", n))).unwrap();
    assert_eq!(
        (many.len(), many[2_499], many[2_501]),
        (2_502, Some(2_499), None)
    );
}

#[test]
fn ranges_are_deleted_page_by_page() {
    let map: Map<(String, u32), u32> = Map::new("m");
    let fill = || {
        for n in 0..1_500 {
            map.set(("a", n), &n).unwrap();
        }
        map.set(("b", 1), &9).unwrap();
    };
    fill();
    let some = || map.list().prefix(("a",));
    assert_eq!(some().reverse().limit(1_200).delete_all(), Ok(1_200));
    assert_eq!(some().last().unwrap().unwrap().0.1, 299);
    assert_eq!(some().limit(0).delete_all(), Ok(0));
    assert_eq!(some().limit(300).delete_all(), Ok(300));
    assert_eq!((some().delete_all(), map.list().count()), (Ok(0), Ok(1)));

    // One commit for each page, so it is not atomic beyond one.
    fill();
    let (deleted, cost) = testing::cost_of(|| some().limit(1_200).delete_all());
    assert_eq!((deleted, cost.host_calls), (Ok(1_200), 2 * 2));

    // In a transaction it is all or nothing, up to 500.
    let within = |limit: usize| kv::transaction(|| some().limit(limit).delete_all());
    assert_eq!(within(300), Ok(300));
    fill();
    let error = within(501).unwrap_err();
    assert!(matches!(error, Error::TooLarge(_)), "{error:?}");
    assert_eq!(some().count(), Ok(1_500));
}

#[test]
fn get_many_splits_by_the_size_of_the_values() {
    let map: Map<u32, String> = Map::new("large");
    for n in 0..8 {
        map.set(n, &"x".repeat(900_000)).unwrap();
    }
    let many = map.get_many(0..8).unwrap();
    assert!(
        many.iter()
            .all(|value| value.as_ref().is_some_and(|v| v.len() == 900_000))
    );
}

#[test]
fn update_starts_again_after_a_conflict_and_gives_up() {
    let map: Map<String, u32> = Map::new("m");
    let mut runs = 0;
    map.update("k", |value| {
        runs += 1;
        if runs == 1 {
            map.set("k", &10).unwrap();
        }
        *value = Some(value.unwrap_or(0) + 1);
    })
    .unwrap();
    assert_eq!((runs, map.get("k")), (2, Ok(Some(11))));

    let error = map.update("k", |value| {
        map.set("k", &1).unwrap();
        *value = Some(2);
    });
    assert!(matches!(error, Err(Error::Conflict(_))), "{error:?}");
    map.update("k", |value| *value = None).unwrap();
    assert_eq!(map.has("k"), Ok(false));
}

#[test]
fn foreign_keys_are_errors_in_their_place() {
    let map: Map<u32, u32> = Map::new("m");
    kv::collection("m").set("not a number", &1).unwrap();
    map.set(1, &1).unwrap();
    let entries: Vec<_> = map.list().entries().collect();
    assert!(
        matches!(&entries[..], [Ok((1, _)), Err(Error::Decode(_))]),
        "{entries:?}"
    );
}

#[test]
fn uuids_are_of_version_7_and_sort_by_time() {
    let first = Uuid::now_v7().unwrap();
    kvasm_guest::testing::advance(std::time::Duration::from_millis(1));
    let second = Uuid::now_v7().unwrap();
    assert!(first < second);
    assert_eq!(first.to_string().as_bytes()[14], b'7');
}
