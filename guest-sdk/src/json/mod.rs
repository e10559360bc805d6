//! JSON of entries, inputs, outputs and timers: errors say where in the value they are.

mod finite;
mod place;
mod reason;

use finite::Finite;
use place::place;
pub(crate) use reason::wanted;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Writes a value as JSON.
///
/// # Errors
/// Why it cannot be JSON, with the place in it: a number that is NaN or infinite, for which
/// `serde_json` writes `null`; a map's key that is not a string; or an error of the type's own.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, String> {
    let mut json = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut json);
    match value.serialize(Finite(&mut serializer)) {
        Ok(()) => Ok(json),
        // What was written ends where the error is.
        Err(error) => Err(at(&json, &error)),
    }
}

/// Writes a value as JSON text.
///
/// # Errors
/// As [`encode`].
pub(crate) fn encode_text<T: Serialize + ?Sized>(value: &T) -> Result<String, String> {
    // `serde_json` writes UTF-8.
    encode(value).and_then(|json| String::from_utf8(json).map_err(|e| e.to_string()))
}

/// Reads JSON.
///
/// # Errors
/// Why it is not a `T`, with the place.
pub(crate) fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    serde_json::from_slice(json).map_err(|error| at(read_before(json, &error), &error))
}

/// Reads JSON of a client.
///
/// # Errors
/// Why it is not a `T`: for the log, and for the client.
pub(crate) fn decode_of_client<T: DeserializeOwned>(json: &[u8]) -> Result<T, (String, String)> {
    serde_json::from_slice(json).map_err(|error| shown(json, &error))
}

#[cold]
#[inline(never)]
fn shown(json: &[u8], error: &serde_json::Error) -> (String, String) {
    let read = read_before(json, error);
    (at(read, error), reason::reason(&place(read), error))
}

/// Adds the place where the JSON ends to an error.
#[cold]
#[inline(never)]
fn at(json: &[u8], error: &serde_json::Error) -> String {
    match place(json) {
        place if place.is_empty() => format!("{error}"),
        place => format!("at {place}: {error}"),
    }
}

/// Returns what was read when an error occurred.
fn read_before<'j>(json: &'j [u8], error: &serde_json::Error) -> &'j [u8] {
    let lines = json.split_inclusive(|byte| *byte == b'\n');
    let before: usize = lines
        .take(error.line().saturating_sub(1))
        .map(<[u8]>::len)
        .sum();
    let end = before.saturating_add(error.column()).min(json.len());
    json.get(..end).unwrap_or(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Serialize, Deserialize, Debug, Default)]
    struct Player {
        name: String,
        scores: Vec<f64>,
        ratio: Option<f32>,
        by_day: BTreeMap<String, Shot>,
    }

    #[derive(Serialize, Deserialize, Debug)]
    enum Shot {
        Miss,
        Hit(f64),
        Pair(u8, f64),
        Arc { angle: f64 },
    }

    fn player() -> Player {
        Player {
            name: "ada, \"x\": [1".to_owned(),
            scores: vec![1.0, 2.5],
            ratio: Some(0.5),
            by_day: BTreeMap::from([
                ("mon".to_owned(), Shot::Miss),
                ("tue".to_owned(), Shot::Hit(1.0)),
                ("wed".to_owned(), Shot::Pair(1, 2.0)),
                ("thu \\\"".to_owned(), Shot::Arc { angle: 3.0 }),
            ]),
        }
    }

    #[test]
    fn finite_values_are_written_as_serde_json_does() {
        let values = (
            player(),
            (),
            Some(-0.0),
            f64::MAX,
            i128::MAX,
            'x',
            Some(None::<u8>),
        );
        let bytes = serde_json::to_vec(&values).unwrap();
        assert_eq!(encode(&values).unwrap(), bytes);
        assert_eq!(encode("text").unwrap(), b"\"text\"");
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(encode(&value).unwrap(), serde_json::to_vec(&value).unwrap());
    }

    #[test]
    fn numbers_that_json_lacks_are_refused_with_their_place() {
        let refused = |change: &dyn Fn(&mut Player)| {
            let mut value = player();
            change(&mut value);
            encode(&value).unwrap_err()
        };
        let day = |day: &str, shot: fn() -> Shot| {
            let day = day.to_owned();
            refused(&move |p| {
                p.by_day.insert(day.clone(), shot());
            })
        };
        let nan = "NaN is not a number in JSON";
        assert_eq!(
            refused(&|p| p.scores[1] = f64::NAN),
            format!("at scores[1]: {nan}")
        );
        assert_eq!(
            refused(&|p| p.ratio = Some(f32::NAN)),
            format!("at ratio: {nan}")
        );
        assert_eq!(
            day("tue", || Shot::Hit(f64::INFINITY)),
            "at by_day.tue.Hit: infinity is not a number in JSON"
        );
        assert_eq!(
            day("a b", || Shot::Pair(1, f64::NEG_INFINITY)),
            "at by_day[\"a b\"].Pair[1]: -infinity is not a number in JSON"
        );
        assert_eq!(
            day("x\"", || Shot::Arc { angle: f64::NAN }),
            format!("at by_day[\"x\\\"\"].Arc.angle: {nan}")
        );
        assert_eq!(encode(&f64::NAN).unwrap_err(), nan);
        assert_eq!(
            encode(&[[0.0], [f64::NAN]]).unwrap_err(),
            format!("at [1][0]: {nan}")
        );
    }

    #[test]
    fn keys_that_json_lacks_are_refused_with_their_place() {
        let value = BTreeMap::from([("days", BTreeMap::from([((1, 2), 3)]))]);
        assert_eq!(encode(&value).unwrap_err(), "at days: key must be a string");
    }

    #[test]
    fn values_of_another_type_are_refused_with_their_place() {
        let refused = |json: &str| decode::<Player>(json.as_bytes()).unwrap_err();
        let text = refused(r#"{"name":"a","scores":[1,"x"]}"#);
        let why = "invalid type: string \"x\", expected f64 at line 1 column 27";
        assert_eq!(text, format!("at scores[1]: {why}"));
        let text = refused("{\n \"name\": \"a\",\n \"scores\": [],\n \"ratio\": {}\n}");
        assert!(
            text.starts_with("at ratio: invalid type: map, expected f32"),
            "{text}"
        );
        let text = refused(r#"{"name":"a"}"#);
        assert!(text.starts_with("missing field `scores` at"), "{text}");
        let text = decode::<Vec<Player>>(br#"[{"name":"a"}]"#).unwrap_err();
        assert!(text.starts_with("at [0]: missing field `scores`"), "{text}");
        assert!(decode::<u8>(b"").unwrap_err().starts_with("EOF"));
    }
}
