//! Feature flags over HTTP. A flag is on for the users that it names, and for a share of the others.
//!
//! - `GET /flags?limit=20&cursor=...` lists the flags, page by page.
//! - `GET /flags/{name}` returns a flag, with its `ETag`.
//! - `PUT /flags/{name}` creates or replaces it, if `If-Match` and `If-None-Match` allow it.
//! - `GET /users/{user}` returns which flags are on for a user.
//!
//! Anyone can read; writing requires a token with the scope `script:write`.

use kvasm_guest::http::{HttpError, Problem, Request, Response, Router};
use kvasm_guest::kv::Cursor;
use kvasm_guest::typed::Map;
use kvasm_guest::{Caller, Json};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Flag {
    /// The share of users for whom it is on, in percent.
    percent: u8,
    /// Those for whom it is always on.
    #[serde(default)]
    users: BTreeSet<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Page {
    flags: BTreeMap<String, Flag>,
    /// The `cursor` of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<Cursor>,
}

kvasm_guest::collections! {
    FLAGS: Map<String, Flag> = "flags";
}

#[kvasm_guest::http]
fn handle(request: Request) -> Result<Response, HttpError> {
    Router::new()
        .get("/flags", list)
        .get("/flags/{name}", flag)
        .put("/flags/{name}", set_flag)
        .get("/users/{user}", flags_of_user)
        .handle(request)
}

fn list(request: Request) -> Result<Json<Page>, HttpError> {
    let limit = request.query_value("limit")?.unwrap_or(100);
    let page = FLAGS.list().page(limit, request.query_value("cursor")?)?;
    let flags = page.items.into_iter();
    Ok(Json(Page {
        flags: flags.map(|(name, flag)| (name, flag.value)).collect(),
        cursor: page.cursor,
    }))
}

fn flag(request: Request) -> Result<Option<Response>, HttpError> {
    let Some(flag) = FLAGS.get_entry(request.param::<String>("name")?)? else {
        return Ok(None);
    };
    request.check_version(Some(flag.version))?;
    Ok(Some(Response::json(&flag.value)?.etag(flag.version)))
}

fn set_flag(request: Request) -> Result<Response, HttpError> {
    if kvasm_guest::context()?.caller == Caller::Public {
        return Err(Problem::new(401)
            .detail("Changing a flag requires a token.")
            .into());
    }
    let flag: Flag = request
        .json()
        .map_err(|error| Problem::new(400).detail(error.message()))?;
    if flag.percent > 100 {
        return Err(Problem::new(422).detail("`percent` is 0 to 100.").into());
    }
    let name: String = request.param("name")?;
    let current = FLAGS.get_entry(&name)?.map(|flag| flag.version);
    let version = FLAGS.set_with(&name, &flag, request.set_options(current)?)?;
    let status = if current.is_some() { 204 } else { 201 };
    Ok(Response::new(status).etag(version))
}

fn flags_of_user(request: Request) -> Result<Json<BTreeMap<String, bool>>, HttpError> {
    let user: String = request.param("user")?;
    let mut flags = BTreeMap::new();
    for flag in FLAGS.list().entries() {
        let (name, flag) = flag?;
        let is_on = flag.value.is_on(&name, &user);
        flags.insert(name, is_on);
    }
    Ok(Json(flags))
}

impl Flag {
    /// A user keeps the flag while its share grows. Each flag begins with other users.
    fn is_on(&self, name: &str, user: &str) -> bool {
        self.users.contains(user) || hash(&[name, user]) % 100 < u64::from(self.percent)
    }
}

/// FNV-1a: the hashes of the standard library may change with its version.
fn hash(parts: &[&str]) -> u64 {
    // No text has the byte 0xff, so it separates them.
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_guest::testing::{CallError, Harness};

    type Tested = Result<(), CallError>;

    fn get(target: &str) -> Request {
        Request::get(target).build()
    }

    /// Sets a flag as an administrator.
    fn set(h: &mut Harness, name: &str, percent: u8) -> Result<Response, CallError> {
        let body = format!(r#"{{"percent":{percent},"users":["ada"]}}"#);
        h.set_caller(Caller::Principal);
        let put = Request::put(&format!("/flags/{name}")).body(body);
        let response = h.http(put.build());
        h.set_caller(Caller::Public);
        response
    }

    #[kvasm_guest::test]
    fn flag_round_trips_and_is_cached(h: &mut Harness) -> Tested {
        assert_eq!(h.http(get("/flags/new%20cart"))?.status, 404);
        assert_eq!(set(h, "new%20cart", 5)?.status, 201);
        let found = h.http(get("/flags/new%20cart"))?;
        assert_eq!(found.body_text(), r#"{"percent":5,"users":["ada"]}"#);
        let tag = found.header_value("etag").unwrap();
        let again = Request::get("/flags/new%20cart").header("if-none-match", tag);
        assert_eq!(h.http(again.build())?.status, 304);
        Ok(())
    }

    #[kvasm_guest::test]
    fn concurrent_change_is_not_overwritten(h: &mut Harness) -> Tested {
        let created = set(h, "cart", 5)?;
        let tag = created.header_value("etag").unwrap();
        let put = |percent| {
            let users = BTreeSet::new();
            let put = Request::put("/flags/cart").header("if-match", tag);
            put.json(&Flag { percent, users }).build()
        };
        h.set_caller(Caller::Principal);
        assert_eq!(h.http(put(10))?.status, 204);
        assert_eq!(h.http(put(20))?.status, 412);
        assert_eq!(FLAGS.get("cart")?.unwrap().percent, 10);
        Ok(())
    }

    #[kvasm_guest::test]
    fn bad_requests_are_problems(h: &mut Harness) -> Tested {
        let put = || Request::put("/flags/cart").body("{}").build();
        let denied = h.http(put())?;
        assert_eq!(denied.status, 401);
        let kind = denied.header_value("content-type");
        assert_eq!(kind, Some("application/problem+json"));
        assert_eq!(set(h, "cart", 101)?.status, 422);
        h.set_caller(Caller::Principal);
        let refused = h.http(put())?;
        assert_eq!(refused.status, 400);
        assert!(refused.body_text().contains("missing field `percent`"));
        assert_eq!(h.http(get("/flags?cursor=x"))?.status, 400);
        assert_eq!(h.http(get("/flags?limit=x"))?.status, 400);
        assert!(!FLAGS.has("cart")?);
        Ok(())
    }

    #[kvasm_guest::test]
    fn list_has_pages(h: &mut Harness) -> Tested {
        for name in ["a", "b", "c"] {
            assert_eq!(set(h, name, 1)?.status, 201);
        }
        let first: Page = h.http(get("/flags?limit=2"))?.decode_json()?;
        assert_eq!(first.flags.len(), 2);
        let next = format!("/flags?limit=2&cursor={}", first.cursor.unwrap());
        let last: Page = h.http(get(&next))?.decode_json()?;
        assert!(last.flags.keys().eq(["c"]) && last.cursor.is_none());
        Ok(())
    }

    #[kvasm_guest::test]
    fn share_grows_and_keeps_its_users(h: &mut Harness) -> Tested {
        let on = |name: &str, percent| -> BTreeSet<u32> {
            let users = BTreeSet::new();
            let flag = Flag { percent, users };
            let users = 0..2000_u32;
            users
                .filter(|user| flag.is_on(name, &user.to_string()))
                .collect()
        };
        let (some, most) = (on("a", 20), on("a", 80));
        assert!((320..480).contains(&some.len()), "{}", some.len());
        assert!((1520..1680).contains(&most.len()), "{}", most.len());
        assert!(some.is_subset(&most));
        let both = on("b", 20).intersection(&some).count();
        assert!((40..130).contains(&both), "{both}");
        assert_eq!(set(h, "off", 0)?.status, 201);
        assert_eq!(set(h, "on", 100)?.status, 201);
        let of = |h: &mut Harness, user| h.http(get(&format!("/users/{user}")));
        assert_eq!(of(h, "ada")?.body_text(), r#"{"off":true,"on":true}"#);
        assert_eq!(of(h, "bob")?.body_text(), r#"{"off":false,"on":true}"#);
        Ok(())
    }
}
