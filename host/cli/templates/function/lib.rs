//! Tags by name. Each call runs in a fresh instance; what is to stay goes to the store.

use kvasm_guest::{Error, FunctionError, Json, Refused, kv};
use serde::Deserialize;

#[derive(Deserialize)]
struct Tag {
    name: String,
    tag: String,
}

/// Adds a tag to a name, and returns all its tags.
#[kvasm_guest::function]
fn add_tag(Json(Tag { name, tag }): Json<Tag>) -> Result<Json<Vec<String>>, FunctionError> {
    if tag.is_empty() {
        return Err(Refused("a tag needs at least one character").into());
    }
    // Not `get` and `set`: of two calls at the same time one would be lost.
    let tags = kv::collection("tags").update(&name, |tags: Option<Vec<String>>| {
        let mut tags = tags.unwrap_or_default();
        if !tags.contains(&tag) {
            tags.push(tag.clone());
        }
        tags
    })?;
    log::info!("{name} has {} tags", tags.len());
    Ok(Json(tags))
}

/// Returns all names that have tags, in order.
#[kvasm_guest::function]
fn names() -> Result<Json<Vec<String>>, Error> {
    let names: Result<_, Error> = kv::collection("tags").list().keys().collect();
    names.map(Json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_guest::testing;

    #[test]
    fn tags_are_collected() {
        let add = |tag: &str| testing::call(add_tag, format!(r#"{{"name":"ada","tag":"{tag}"}}"#));
        assert_eq!(add("fast"), Ok(br#"["fast"]"#.to_vec()));
        assert_eq!(add("kind"), Ok(br#"["fast","kind"]"#.to_vec()));
        assert_eq!(add("fast"), Ok(br#"["fast","kind"]"#.to_vec()));
        assert!(add("").unwrap_err().contains("at least one character"));
        assert_eq!(names(), Ok(Json(vec!["ada".to_owned()])));
    }
}
