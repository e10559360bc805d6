//! Short links: `PUT /{slug}` with a URL as the body creates one, `GET /{slug}` redirects there
//! and counts the visit, `GET /` lists them page by page. The function `stats` returns their
//! number.

use kvasm_guest::http::{Request, Response};
use kvasm_guest::kv::{self, Collection, Cursor, SetOptions};
use kvasm_guest::{Error, Json};
use serde::{Deserialize, Serialize};

const SLUG_BYTES_MAX: usize = 64;
const URL_BYTES_MAX: usize = 2048;
const PAGE_LINKS: usize = 50;

/// The value stored under a slug.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Link {
    url: String,
    visits: u64,
}

#[derive(Serialize)]
struct Listed {
    slug: String,
    #[serde(flatten)]
    link: Link,
}

#[derive(Serialize)]
struct Page {
    links: Vec<Listed>,
    /// Passed to `GET /?cursor=...` for the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<Cursor>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Stats {
    links: u64,
    visits: u64,
}

fn links() -> Collection {
    kv::collection("links")
}

/// Serves the requests to the app.
#[kvasm_guest::http]
fn handle(request: Request) -> Result<Response, Error> {
    let slug = request.path().strip_prefix('/').unwrap_or_default();
    match (request.method(), slug) {
        ("GET", "") => list(&request),
        (_, "") => Ok(Response::new(405).header("allow", "GET")),
        (_, slug) if !is_slug(slug) => Ok(Response::text("there is no such link").status(404)),
        ("GET", slug) => visit(slug),
        ("PUT", slug) => keep(slug, request.body()),
        _ => Ok(Response::new(405).header("allow", "GET, PUT")),
    }
}

/// Counts links and visits.
#[kvasm_guest::function]
fn stats() -> Result<Json<Stats>, Error> {
    let mut stats = Stats::default();
    for entry in links().list().entries::<Link>() {
        stats.visits += entry?.value.visits;
        stats.links += 1;
    }
    Ok(Json(stats))
}

/// These characters need no percent-encoding in a path.
fn is_slug(slug: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    (1..=SLUG_BYTES_MAX).contains(&slug.len()) && slug.chars().all(is_allowed)
}

fn list(request: &Request) -> Result<Response, Error> {
    let cursor = match request.query_param("cursor") {
        Ok(cursor) => cursor,
        Err(error) => return Ok(refused(error.message())),
    };
    let Ok(cursor) = cursor.map(|text| text.parse::<Cursor>()).transpose() else {
        return Ok(refused("the cursor is malformed"));
    };
    let list = links().list().limit(PAGE_LINKS).cursor(cursor);
    let page = match list.page::<Link>() {
        // The cursor comes from the client: one of another list is the client's error.
        Err(Error::Invalid(message)) => return Ok(refused(&message)),
        page => page?,
    };
    let listed = |entry: kv::Entry<Link>| Listed {
        slug: entry.key,
        link: entry.value,
    };
    Response::json(&Page {
        links: page.items.into_iter().map(listed).collect(),
        cursor: page.cursor,
    })
}

fn visit(slug: &str) -> Result<Response, Error> {
    loop {
        let Some(entry) = links().get_entry::<Link>(slug)? else {
            return Ok(Response::text("there is no such link").status(404));
        };
        let Link { url, visits } = entry.value;
        let visited = Link {
            url,
            visits: visits + 1,
        };
        let unchanged = SetOptions::new().if_version(entry.version);
        match links().set_with(slug, &visited, unchanged) {
            // Another visit was counted in between: retry.
            Err(Error::Conflict(_)) => {}
            kept => {
                kept?;
                return Ok(Response::new(302)
                    .header("location", visited.url)
                    // A redirect from a cache would not be counted.
                    .header("cache-control", "no-store"));
            }
        }
    }
}

/// Creates a link. An existing slug is not overwritten.
fn keep(slug: &str, body: &[u8]) -> Result<Response, Error> {
    let Some(url) = url(body) else {
        return Ok(refused(
            "the body must be a URL: http:// or https://, ASCII, at most 2048 bytes",
        ));
    };
    let link = Link {
        url: url.to_owned(),
        visits: 0,
    };
    match links().set_with(slug, &link, SetOptions::new().if_absent()) {
        Err(Error::Conflict(_)) => Ok(Response::text("this slug is taken").status(409)),
        kept => {
            kept?;
            Ok(Response::new(201))
        }
    }
}

/// Returns the URL in a body, if a `location` header can carry it.
fn url(body: &[u8]) -> Option<&str> {
    let url = std::str::from_utf8(body).ok()?.trim();
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"))?;
    let is_url = !rest.is_empty() && rest.chars().all(|c| c.is_ascii_graphic());
    (is_url && url.len() <= URL_BYTES_MAX).then_some(url)
}

fn refused(why: &str) -> Response {
    Response::text(why).status(400)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_guest::testing;

    fn get(target: &str) -> Response {
        testing::call_http(handle, Request::get(target).build()).unwrap()
    }

    fn put(target: &str, url: &str) -> Response {
        testing::call_http(handle, Request::put(target).body(url).build()).unwrap()
    }

    #[test]
    fn link_redirects_and_counts_the_visit() {
        assert_eq!(put("/rust", "https://www.rust-lang.org/\n").status, 201);
        let redirect = Response::new(302)
            .header("location", "https://www.rust-lang.org/")
            .header("cache-control", "no-store");
        assert_eq!(get("/rust"), redirect);
        assert_eq!(get("/rust?from=mail"), redirect);
        assert_eq!(put("/idle", "http://example.com").status, 201);
        assert_eq!(
            stats(),
            Ok(Json(Stats {
                links: 2,
                visits: 2
            }))
        );
        let listed = r#"{"links":[{"slug":"idle","url":"http://example.com","visits":0},{"slug":"rust","url":"https://www.rust-lang.org/","visits":2}]}"#;
        assert_eq!(get("/").body, listed.as_bytes());
    }

    #[test]
    fn taken_slug_is_not_overwritten() {
        assert_eq!(put("/a", "https://one.example").status, 201);
        assert_eq!(put("/a", "https://two.example").status, 409);
        let location = ("location".to_owned(), "https://one.example".to_owned());
        assert!(get("/a").headers.contains(&location));
    }

    #[test]
    fn invalid_link_is_rejected() {
        for url in [
            "",
            "https://",
            "javascript:alert(1)",
            "https://a b",
            "https://a\r\nb: c",
        ] {
            assert_eq!(put("/a", url).status, 400, "{url}");
        }
        let long = format!("https://{}", "a".repeat(URL_BYTES_MAX));
        assert_eq!(put("/a", &long).status, 400);
        assert_eq!(get("/a").status, 404);
        for target in ["/a/b", "/%61", "/a.b"] {
            assert_eq!(put(target, "https://a.example").status, 404, "{target}");
        }
        let delete = Request::delete("/a").build();
        let expected = Response::new(405).header("allow", "GET, PUT");
        assert_eq!(handle(delete), Ok(expected));
    }

    #[test]
    fn long_list_is_paginated() {
        for n in 0..=PAGE_LINKS {
            assert_eq!(put(&format!("/s{n:02}"), "https://a.example").status, 201);
        }
        let page: serde_json::Value = serde_json::from_slice(&get("/").body).unwrap();
        assert_eq!(page["links"].as_array().unwrap().len(), PAGE_LINKS);
        let cursor = page["cursor"].as_str().unwrap();
        let last = get(&format!("/?cursor={cursor}"));
        let expected = r#"{"links":[{"slug":"s50","url":"https://a.example","visits":0}]}"#;
        assert_eq!(last.body, expected.as_bytes());
        for bad in ["x", "00"] {
            assert_eq!(get(&format!("/?cursor={bad}")).status, 400, "{bad}");
        }
    }
}
