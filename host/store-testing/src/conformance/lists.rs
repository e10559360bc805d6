//! Lists: order, ranges, pages and their limits.

use super::Kit;
use super::entries::ODD_KEYS;
use super::kit::{Tenant, bytes, collection, json, key, keys_of, list, set};
use super::loop_guard::LoopGuard;
use kvasm_core::{KEY_BYTES_MAX, KeyRange, ListQuery};
use std::collections::BTreeMap;
use std::ops::Bound;

async fn fill(app: &Tenant, keys: &[&str]) {
    for keys in keys.chunks(500) {
        app.commit(
            vec![],
            keys.iter().map(|key| set("c", key, bytes(key))).collect(),
        )
        .await;
    }
}

fn range(prefix: Option<&str>, start: Option<&str>, end: Option<&str>) -> KeyRange {
    let bytes = |text: Option<&str>| text.map(|text| text.as_bytes().to_vec());
    KeyRange::parse(bytes(prefix), bytes(start), bytes(end)).expect("a range")
}

fn query(range: KeyRange) -> ListQuery {
    ListQuery { range, ..list("c") }
}

pub async fn keys_are_listed_in_bytewise_order(kit: Kit) {
    let app = kit.app().await;
    fill(&app, ODD_KEYS).await;
    app.set("d", "other", bytes("x")).await;
    let mut sorted = ODD_KEYS.to_vec();
    sorted.sort_by_key(|key| key.as_bytes());
    let page = app.page(&list("c")).await;
    assert_eq!(keys_of(&page), sorted);
    assert!(!page.more);
}

/// An unbounded list includes the greatest possible key, and the page after it is empty.
pub async fn list_includes_the_greatest_possible_key(kit: Kit) {
    let app = kit.app().await;
    let greatest = "\u{10ffff}".repeat(KEY_BYTES_MAX / 4);
    fill(&app, &["a", &greatest]).await;
    assert_eq!(keys_of(&app.page(&list("c")).await), ["a", &greatest]);
    let from = range(None, Some(&greatest), None);
    assert_eq!(keys_of(&app.page(&query(from)).await), [greatest.as_str()]);
    let after = range(None, None, None).after(&key(&greatest), false);
    assert_eq!(keys_of(&app.page(&query(after)).await), [""; 0]);
}

pub async fn list_by_prefix(kit: Kit) {
    let app = kit.app().await;
    let mut keys = vec![
        "a",
        "a\u{1}",
        "aa",
        "ab",
        "b",
        "a\u{10ffff}",
        "a\u{10ffff}b",
        "az",
        "A",
        "ä",
    ];
    fill(&app, &keys).await;
    keys.sort_unstable();
    for prefix in [
        "",
        "a",
        "aa",
        "a\u{10ffff}",
        "b",
        "c",
        "A",
        "ä",
        "a%",
        "\u{10ffff}",
    ] {
        let page = app.page(&query(range(Some(prefix), None, None))).await;
        let expected: Vec<_> = keys
            .iter()
            .copied()
            .filter(|key| key.starts_with(prefix))
            .collect();
        assert_eq!(keys_of(&page), expected, "prefix {prefix:?}");
    }
    let page = app
        .page(&query(range(Some("a"), Some("aa"), Some("az"))))
        .await;
    assert_eq!(keys_of(&page), ["aa", "ab"]);
}

pub async fn list_by_range_respects_its_bounds(kit: Kit) {
    let app = kit.app().await;
    let mut keys = ODD_KEYS.to_vec();
    keys.sort_unstable();
    fill(&app, &keys).await;
    let bounds = |key: &str| {
        let key = key.to_owned();
        [
            Bound::Unbounded,
            Bound::Included(key.clone()),
            Bound::Excluded(key),
        ]
    };
    let picks = [
        " ",
        "a",
        "a\u{1}",
        "a\u{2}",
        "b",
        "\u{ffff}",
        "\u{10000}",
        "\u{10ffff}",
    ];
    for (low, high) in picks
        .iter()
        .flat_map(|low| picks.iter().map(move |high| (low, high)))
    {
        for lower in bounds(low) {
            for upper in bounds(high) {
                let range = KeyRange {
                    lower: lower.clone(),
                    upper,
                };
                let inside = |key: &&str| {
                    let above = match &range.lower {
                        Bound::Unbounded => true,
                        Bound::Included(low) => *key >= low.as_str(),
                        Bound::Excluded(low) => *key > low.as_str(),
                    };
                    let below = match &range.upper {
                        Bound::Unbounded => true,
                        Bound::Included(high) => *key <= high.as_str(),
                        Bound::Excluded(high) => *key < high.as_str(),
                    };
                    above && below
                };
                let expected: Vec<_> = keys.iter().copied().filter(inside).collect();
                let page = app.page(&query(range.clone())).await;
                assert_eq!(keys_of(&page), expected, "{range:?}");
                assert!(!page.more);
            }
        }
    }
}

pub async fn crossed_bounds_give_an_empty_page(kit: Kit) {
    let app = kit.app().await;
    fill(&app, &["a", "b", "c"]).await;
    for (start, end) in [("c", "a"), ("b", "b"), ("z", "y")] {
        for reverse in [false, true] {
            let mut query = query(range(None, Some(start), Some(end)));
            query.reverse = reverse;
            let page = app.page(&query).await;
            assert!(page.entries.is_empty() && !page.more, "{start}..{end}");
        }
    }
    let excluded = |text: &str| Bound::Excluded(text.to_owned());
    let crossed = KeyRange {
        lower: excluded("b"),
        upper: excluded("b"),
    };
    assert!(app.page(&query(crossed)).await.entries.is_empty());
}

pub async fn reverse_list_is_the_exact_reverse(kit: Kit) {
    let app = kit.app().await;
    fill(&app, ODD_KEYS).await;
    for range in [
        KeyRange::ALL,
        range(Some("a"), None, None),
        range(None, Some("Z"), Some("\u{ffff}")),
    ] {
        let forward = query(range);
        let reverse = ListQuery {
            reverse: true,
            with_values: true,
            ..forward.clone()
        };
        let forward = app.page(&forward).await;
        let reverse = app.page(&reverse).await;
        let mut mirrored = keys_of(&reverse);
        mirrored.reverse();
        assert_eq!(keys_of(&forward), mirrored);
        for (key, entry) in &reverse.entries {
            assert_eq!(entry.as_ref().unwrap().value, bytes(key.as_str()));
        }
    }
}

pub async fn more_flag_is_exact(kit: Kit) {
    let app = kit.app().await;
    fill(&app, &["a", "b", "c", "d", "e"]).await;
    app.set("d", "f", bytes("x")).await;
    for reverse in [false, true] {
        for with_values in [false, true] {
            for limit in 1..=7 {
                let query = ListQuery {
                    reverse,
                    with_values,
                    limit,
                    ..list("c")
                };
                let page = app.page(&query).await;
                assert_eq!(page.entries.len(), limit.min(5) as usize);
                assert_eq!(page.more, limit < 5, "limit {limit} of 5 keys");
            }
            // Entries outside the range do not count as more.
            let query = ListQuery {
                reverse,
                with_values,
                limit: 2,
                range: range(None, Some("b"), Some("d")),
                ..list("c")
            };
            let page = app.page(&query).await;
            assert_eq!(page.entries.len(), 2);
            assert!(!page.more);
        }
    }
    assert!(!app.page(&list("empty")).await.more);
}

pub async fn page_ends_with_the_entry_that_reaches_its_byte_limit(kit: Kit) {
    let app = kit.app().await;
    // 10 entries of 3 + 7 bytes.
    for at in 0..10 {
        app.set("c", &format!("k{at:02}"), bytes("1234567")).await;
    }
    for reverse in [false, true] {
        for (bytes_max, with_values, len) in [
            (1, true, 1),
            (9, true, 1),
            (10, true, 1),
            (11, true, 2),
            (20, true, 2),
            (21, true, 3),
            (90, true, 9),
            (91, true, 10),
            (100, true, 10),
            (usize::MAX, true, 10),
            // Without values only the keys count.
            (1, false, 1),
            (3, false, 1),
            (4, false, 2),
            (27, false, 9),
            (28, false, 10),
        ] {
            let query = ListQuery {
                reverse,
                bytes_max,
                with_values,
                ..list("c")
            };
            let page = app.page(&query).await;
            assert_eq!(
                page.entries.len(),
                len,
                "{bytes_max} bytes, values {with_values}"
            );
            assert_eq!(
                page.more,
                len < 10,
                "{bytes_max} bytes, values {with_values}"
            );
        }
    }
    // With both limits, the tighter one applies.
    let query = ListQuery {
        limit: 2,
        bytes_max: 100,
        with_values: true,
        ..list("c")
    };
    assert_eq!(app.page(&query).await.entries.len(), 2);
    let query = ListQuery {
        limit: 9,
        bytes_max: 40,
        with_values: true,
        ..list("c")
    };
    assert_eq!(app.page(&query).await.entries.len(), 4);
}

pub async fn page_has_at_least_one_entry(kit: Kit) {
    let app = kit.app().await;
    app.set("c", "a", bytes(vec![1; 100_000])).await;
    app.set("c", "b", json("1")).await;
    for bytes_max in [0, 1, 99_999] {
        let query = ListQuery {
            bytes_max,
            with_values: true,
            ..list("c")
        };
        let page = app.page(&query).await;
        assert_eq!(keys_of(&page), ["a"]);
        assert!(page.more);
    }
    let query = ListQuery {
        bytes_max: 1,
        with_values: true,
        reverse: true,
        ..list("c")
    };
    let page = app.page(&query).await;
    assert_eq!(keys_of(&page), ["b"]);
    assert!(page.more);
}

pub async fn list_returns_values_only_on_request(kit: Kit) {
    let app = kit.app().await;
    app.set("c", "a", bytes("1")).await;
    app.later(1)
        .set_until("c", "b", json("[2]"), app.now.plus_ms(99))
        .await;
    let page = app.page(&list("c")).await;
    assert!(page.entries.iter().all(|(_, entry)| entry.is_none()));
    let page = app
        .page(&ListQuery {
            with_values: true,
            ..list("c")
        })
        .await;
    for (key, entry) in &page.entries {
        assert_eq!(*entry, app.get("c", key.as_str()).await);
    }
    assert_eq!(page.entries.len(), 2);
}

pub async fn concatenated_pages_equal_the_full_list(kit: Kit) {
    let app = kit.app().await;
    let names: Vec<_> = (0..250)
        .map(|at| format!("{:04x}", at * 7919 % 65536))
        .collect();
    let mut keys: Vec<_> = names.iter().map(String::as_str).collect();
    fill(&app, &keys).await;
    keys.sort_unstable();
    for reverse in [false, true] {
        for limit in [1, 7, 50, 250, 251] {
            let mut query = ListQuery {
                reverse,
                limit,
                ..list("c")
            };
            let mut found = Vec::new();
            let mut rounds = LoopGuard::new();
            loop {
                rounds.next();
                let page = app.page(&query).await;
                found.extend(keys_of(&page).iter().map(|key| key.to_string()));
                if !page.more {
                    break;
                }
                query.range = query.range.after(&page.entries.last().unwrap().0, reverse);
            }
            if reverse {
                found.reverse();
            }
            assert_eq!(found, keys, "pages of {limit}");
        }
    }
}

pub async fn collections_are_listed_in_pages(kit: Kit) {
    let app = kit.app().await;
    let other = kit.app().await;
    assert_eq!(app.store.collections(app.id, None, 10).await.unwrap(), []);
    let mut names: Vec<_> = ODD_KEYS.iter().map(|name| collection(name)).collect();
    for name in &names {
        for k in ["a", "b", "c"] {
            app.set(name.as_str(), k, bytes("x")).await;
        }
    }
    other.set("other", "k", bytes("x")).await;
    names.sort_by(|left, right| left.as_str().as_bytes().cmp(right.as_str().as_bytes()));
    for limit in [1, 7, 1000] {
        let mut found = Vec::new();
        let mut rounds = LoopGuard::new();
        loop {
            rounds.next();
            let last = found.last().cloned();
            let page = app
                .store
                .collections(app.id, last.as_ref(), limit)
                .await
                .unwrap();
            assert!(page.len() <= limit as usize);
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        assert_eq!(found, names, "pages of {limit}");
    }
    // The start need not be an existing collection.
    let page = app
        .store
        .collections(app.id, Some(&collection("a ~")), 1)
        .await
        .unwrap();
    assert_eq!(page, [collection("a\u{7f}")]);
    for k in ["a", "b", "c"] {
        app.delete("Z", k).await;
    }
    let page = app.store.collections(app.id, None, 1000).await.unwrap();
    assert_eq!(page.len(), names.len() - 1);
    assert!(!page.contains(&collection("Z")));
}

pub async fn random_lists_match_the_model(kit: Kit) {
    let app = kit.app().await;
    let mut rng = kit.rng();
    let letters = ["a", "b", "\u{1}", "é", "\u{ffff}", "\u{10000}", "Z"];
    let mut word = |max: usize| {
        (0..=rng.below(max))
            .map(|_| *rng.pick(&letters))
            .collect::<String>()
    };
    let words: Vec<_> = (0..200).map(|_| word(4)).collect();
    let bounds: Vec<_> = (0..400).map(|_| word(5)).collect();
    let mut rng = kit.rng();
    let mut all = BTreeMap::new();
    for word in &words {
        let value = rng.short_bytes(40);
        app.set("c", word, bytes(&value)).await;
        all.insert(key(word), value);
    }
    for pair in bounds.chunks(2) {
        let mut bound = |text: &String| match rng.below(4) {
            0 => Bound::Unbounded,
            1 => Bound::Excluded(text.clone()),
            _ => Bound::Included(text.clone()),
        };
        let range = KeyRange {
            lower: bound(&pair[0]),
            upper: bound(&pair[1]),
        };
        let query = ListQuery {
            range,
            reverse: rng.chance(1, 2),
            with_values: rng.chance(1, 2),
            limit: 1 + rng.below(30) as u32,
            bytes_max: rng.below(600),
            ..list("c")
        };
        let page = app.page(&query).await;
        let (expected, more) = expect(&all, &query);
        assert_eq!(keys_of(&page), expected, "{query:?}");
        assert_eq!(page.more, more, "{query:?}");
    }
}

fn expect<'a>(
    all: &'a BTreeMap<kvasm_core::Key, Vec<u8>>,
    query: &ListQuery,
) -> (Vec<&'a str>, bool) {
    let KeyRange { lower, upper } = &query.range;
    let inside = |text: &str| (lower.as_ref(), upper.as_ref()).contains_text(text);
    let mut rest: Vec<_> = all.iter().filter(|(key, _)| inside(key.as_str())).collect();
    if query.reverse {
        rest.reverse();
    }
    let mut page = Vec::new();
    let mut bytes = 0;
    for (key, value) in &rest {
        page.push(key.as_str());
        bytes += key.as_str().len() + if query.with_values { value.len() } else { 0 };
        if page.len() >= query.limit as usize || bytes >= query.bytes_max {
            break;
        }
    }
    let more = page.len() < rest.len();
    (page, more)
}

trait ContainsText {
    fn contains_text(&self, text: &str) -> bool;
}

impl ContainsText for (Bound<&String>, Bound<&String>) {
    fn contains_text(&self, text: &str) -> bool {
        let above = match self.0 {
            Bound::Unbounded => true,
            Bound::Included(low) => text >= low.as_str(),
            Bound::Excluded(low) => text > low.as_str(),
        };
        let below = match self.1 {
            Bound::Unbounded => true,
            Bound::Included(high) => text <= high.as_str(),
            Bound::Excluded(high) => text < high.as_str(),
        };
        above && below
    }
}
