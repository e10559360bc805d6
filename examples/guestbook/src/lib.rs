//! A guestbook: `sign` writes an entry, `page` reads entries page by page, newest first, and
//! `count` returns their number.

use kvasm_guest::kv::{self, Collection, Cursor};
use kvasm_guest::{Error, Json};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Signature {
    name: String,
    message: String,
}

#[derive(Default, Deserialize)]
struct PageRequest {
    limit: Option<usize>,
    cursor: Option<Cursor>,
}

#[derive(Serialize)]
struct PageAnswer {
    signatures: Vec<Signature>,
    /// Absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<Cursor>,
}

fn signatures() -> Collection {
    kv::collection("signatures")
}

/// Signs the guestbook, and returns the key of the entry.
#[kvasm_guest::function]
fn sign(Json(signature): Json<Signature>) -> Result<Json<String>, String> {
    if signature.name.trim().is_empty() {
        return Err("a signature needs a name".to_owned());
    }
    // It sorts by time.
    let key = kv::unique_key().map_err(|e| e.to_string())?;
    signatures()
        .set(&key, &signature)
        .map_err(|e| e.to_string())?;
    Ok(Json(key))
}

/// Reads a page, newest signatures first.
#[kvasm_guest::function]
fn page(Json(request): Json<PageRequest>) -> Result<Json<PageAnswer>, Error> {
    let page = signatures()
        .list()
        .reverse()
        .limit(request.limit.unwrap_or(10))
        .cursor(request.cursor)
        .page::<Signature>()?;
    Ok(Json(PageAnswer {
        signatures: page.items.into_iter().map(|entry| entry.value).collect(),
        cursor: page.cursor,
    }))
}

/// Counts the signatures. The iterator fetches one page after another.
#[kvasm_guest::function]
fn count() -> Result<Json<usize>, Error> {
    signatures().list().count().map(Json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_guest::testing;
    use std::time::Duration;

    fn sign_as(name: &str) -> Result<Json<String>, String> {
        testing::advance(Duration::from_millis(1));
        let message = format!("{name} was here");
        sign(Json(Signature {
            name: name.to_owned(),
            message,
        }))
    }

    #[test]
    fn signatures_are_listed_newest_first() {
        for name in ["Ada", "Brian", "Cleo"] {
            sign_as(name).unwrap();
        }
        let Json(first) = page(Json(PageRequest {
            limit: Some(2),
            cursor: None,
        }))
        .unwrap();
        let names: Vec<_> = first.signatures.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["Cleo", "Brian"]);

        let Json(second) = page(Json(PageRequest {
            limit: Some(2),
            cursor: first.cursor,
        }))
        .unwrap();
        assert_eq!(second.signatures[0].name, "Ada");
        assert_eq!(second.cursor, None);
        assert_eq!(count(), Ok(Json(3)));
    }

    #[test]
    fn signature_without_a_name_is_rejected() {
        assert!(sign_as(" ").is_err());
        assert_eq!(count(), Ok(Json(0)));
    }

    #[test]
    fn sign_function_decodes_its_json_input() {
        let answer = testing::call(page, "{}").unwrap();
        assert_eq!(answer, br#"{"signatures":[]}"#);
        assert!(testing::call(page, r#"{"limit":"two"}"#).is_err());
    }
}
