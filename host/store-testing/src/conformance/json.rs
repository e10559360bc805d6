//! JSON values are equal, as values, after a round trip.

use super::Kit;
use super::kit::{VALUE_BYTES_MAX, json, list, set};
use super::rng::Rng;
use kvasm_core::Value;
use serde_json::Value as Json;

/// Equality of JSON as values: 100, 1e2 and 100.0 are the same number.
fn same(left: &Json, right: &Json) -> bool {
    match (left, right) {
        (Json::Number(left), Json::Number(right)) => {
            let integers = (left.as_i128(), right.as_i128());
            match integers {
                (Some(left), Some(right)) => left == right,
                _ => close(left.as_f64(), right.as_f64()),
            }
        }
        (Json::Array(left), Json::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(l, r)| same(l, r))
        }
        (Json::Object(left), Json::Object(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .all(|(key, l)| right.get(key).is_some_and(|r| same(l, r)))
        }
        (left, right) => left == right,
    }
}

/// serde_json parses a number to the last bit but one, so `1e23` and the same number written
/// out can differ in the last bit.
fn close(left: Option<f64>, right: Option<f64>) -> bool {
    let (Some(left), Some(right)) = (left, right) else {
        return false;
    };
    let difference = (left - right).abs();
    difference <= 1e-15 * left.abs().max(right.abs()) || difference <= f64::MIN_POSITIVE
}

fn parsed(value: &Value) -> Json {
    let Value::Json(text) = value else {
        panic!("JSON was read as bytes");
    };
    serde_json::from_str(text.as_str()).expect("JSON was read")
}

fn assert_same(wrote: &Value, read: &Value) {
    let cut = |value: &Value| {
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        text.chars().take(200).collect::<String>()
    };
    assert!(
        same(&parsed(wrote), &parsed(read)),
        "wrote {} and read {}",
        cut(wrote),
        cut(read)
    );
}

fn extreme() -> Vec<String> {
    let deep =
        |open: &str, close: &str, depth| format!("{}0{}", open.repeat(depth), close.repeat(depth));
    let mut all: Vec<String> = [
        "null",
        "true",
        "false",
        "0",
        "-0",
        "-0.0",
        "0.1",
        "1e308",
        "-1e308",
        "1e-300",
        "5e-324",
        "2.2250738585072014e-308",
        "1E+2",
        "1e0",
        "0e10",
        "123456789012345678",
        "9223372036854775807",
        "-9223372036854775808",
        "18446744073709551615",
        "9007199254740993",
        "1.10",
        "100000000000000000000",
        r#""""#,
        r#"" a  b ""#,
        r#""\u00e9\u20ac\ud83d\ude00""#,
        r#""\"\\\/\b\f\n\r\t""#,
        r#""\u0001\u001f\u007f\u2028""#,
        "\"ä€😀\u{7f}\u{10ffff}\u{ffff}\"",
        r#"{"a":1,"a":2}"#,
        r#"{"a":{"b":1},"a":{"c":[]}}"#,
        r#"{"":0," ":1,"\u0061":2,"a b":3}"#,
        r#"{"z":1,"y":2,"aa":3,"Z":4,"ä":5}"#,
        r#"{"a: b, c":"d: e, f"}"#,
        "[]",
        "{}",
        "[[],{}]",
        " [ 1 , { \"a\" : \"b\" } ] ",
        "\t\n\r [\n]\n",
        r#""\\\" , : ""#,
    ]
    .map(str::to_owned)
    .to_vec();
    // serde_json, and therefore the host, parses to a depth of 127.
    all.push(deep("[", "]", 127));
    all.push(deep("{\"a\":", "}", 127));
    all.push(format!("1.{}", "3".repeat(399)));
    all.push(format!("0.{}7", "0".repeat(300)));
    all.push(format!("1{}", "0".repeat(308)));
    all.push(format!("\"{}\"", "\\u00e9".repeat(10_000)));
    all
}

pub async fn extreme_json_values_round_trip(kit: Kit) {
    let app = kit.app().await;
    for text in extreme() {
        let wrote = json(&text);
        app.set("c", "k", wrote.clone()).await;
        assert_same(&wrote, &app.value("c", "k").await.unwrap());
    }
}

fn random_json(rng: &mut Rng, depth: usize) -> String {
    let kind = rng.below(if depth == 0 { 5 } else { 7 });
    let space = *rng.pick(&["", "", " ", "\n\t"]);
    let text = match kind {
        0 => rng.pick(&["null", "true", "false"]).to_string(),
        1 => (rng.next() as i64 >> rng.below(64)).to_string(),
        2 => {
            let number = f64::from_bits(rng.next());
            if number.is_finite() && number.abs() <= 1e308 {
                format!("{number:e}")
            } else {
                "1.5".to_owned()
            }
        }
        3 | 4 => random_string(rng),
        5 => {
            let parts: Vec<_> = (0..rng.below(5))
                .map(|_| random_json(rng, depth - 1))
                .collect();
            format!("[{}]", parts.join(","))
        }
        _ => {
            let part = |rng: &mut Rng| {
                format!(
                    "{}{space}:{}",
                    random_string(rng),
                    random_json(rng, depth - 1)
                )
            };
            let parts: Vec<_> = (0..rng.below(5)).map(|_| part(rng)).collect();
            format!("{{{}}}", parts.join(","))
        }
    };
    format!("{space}{text}{space}")
}

fn random_string(rng: &mut Rng) -> String {
    const PARTS: &[&str] = &[
        "a",
        " ",
        ", ",
        ": ",
        "\\\"",
        "\\\\",
        "\\/",
        "\\n",
        "\\u00e9",
        "\\u0001",
        "\\ud83d\\ude00",
        "é",
        "😀",
        "[",
        "}",
        "\u{7f}",
        "\\\\\\\"",
    ];
    let parts: String = (0..rng.below(6)).map(|_| *rng.pick(PARTS)).collect();
    format!("\"{parts}\"")
}

pub async fn random_json_values_round_trip(kit: Kit) {
    let app = kit.app().await;
    let mut rng = kit.rng();
    for _ in 0..10 {
        let values: Vec<_> = (0..100).map(|_| json(&random_json(&mut rng, 5))).collect();
        let op = |(at, value): (usize, &Value)| set("c", &format!("{at:03}"), value.clone());
        app.commit(vec![], values.iter().enumerate().map(op).collect())
            .await;
        let mut query = list("c");
        query.with_values = true;
        query.bytes_max = usize::MAX;
        let page = app.page(&query).await;
        assert_eq!(page.entries.len(), values.len());
        for (wrote, (_, entry)) in values.iter().zip(&page.entries) {
            assert_same(wrote, &entry.as_ref().unwrap().value);
        }
    }
}

pub async fn json_read_back_never_exceeds_the_value_limit(kit: Kit) {
    let app = kit.app().await;
    // Each is as large as the limit allows, and each was found to grow in some store: spaces,
    // exponents, escapes, key order.
    let fill = |part: &str, len: usize| {
        let count = (VALUE_BYTES_MAX - 2) / len;
        format!("[{}]", vec![part; count].join(","))
    };
    let texts = [
        fill("1", 2),
        fill("[]", 3),
        fill("{\"a\":1}", 8),
        fill("1e300", 306),
        fill("-1.5e-300", 310),
        fill("\"\\u00e9\\u0007\"", 15),
        fill("1.0", 4),
    ];
    for text in texts {
        let wrote = json(&text);
        app.set("c", "k", wrote.clone()).await;
        let read = app.value("c", "k").await.unwrap();
        let len = read.as_bytes().len();
        assert!(
            len <= VALUE_BYTES_MAX,
            "{} ... became {len} bytes",
            &text[..20]
        );
        assert_same(&wrote, &read);
    }
}

pub async fn json_values_round_trip_through_lists_and_batches(kit: Kit) {
    let app = kit.app().await;
    let values: Vec<_> = extreme().iter().map(|text| json(text)).collect();
    let op = |(at, value): (usize, &Value)| set("c", &format!("{at:03}"), value.clone());
    let mut ops: Vec<_> = values.iter().enumerate().map(op).collect();
    // The same key again, so that a store cannot assume distinct keys.
    ops.push(set("c", "000", values[0].clone()));
    app.commit(vec![], ops).await;
    let mut query = list("c");
    query.with_values = true;
    let page = app.page(&query).await;
    assert_eq!(page.entries.len(), values.len());
    for (wrote, (_, entry)) in values.iter().zip(&page.entries) {
        assert_same(wrote, &entry.as_ref().unwrap().value);
    }
}
