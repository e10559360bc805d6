//! Requests to the plugin, and to other servers.

use super::{Step, Text, report, text};
use kvasm_guest::http::{self, HttpError, Problem, Request, Response, Router};
use kvasm_guest::{Error, Json, kv};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A request to another server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outbound {
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Text,
    pub timeout_ms: Option<u64>,
}

/// What a response has, without the headers that a server adds.
type Answer = (u16, Vec<String>, String);

impl Outbound {
    pub(crate) fn send(&self) -> Result<Answer, Error> {
        let mut request = Request::builder(&self.method, &self.url).body(self.body.build());
        for (name, value) in &self.headers {
            request = request.header(name, value.as_str());
        }
        if let Some(ms) = self.timeout_ms {
            request = request.timeout(Duration::from_millis(ms));
        }
        let response = http::fetch(request.build())?;
        let headers = response.header_values("x-a").map(str::to_owned).collect();
        Ok((response.status, headers, text(&response.body)))
    }
}

#[kvasm_guest::http]
pub fn handle(request: Request) -> Result<Response, HttpError> {
    Router::new()
        .get("/echo", echo)
        .get("/echo/{a}", echo)
        .get("/echo/{a}/{*rest}", echo)
        .post("/echo/{a}", echo)
        .get("/entries/{key}", entry)
        .put("/entries/{key}", set_entry)
        .get("/fail/{how}", fail)
        .post("/steps", steps)
        .handle(request)
}

/// Returns what the plugin sees of a request.
fn echo(request: Request) -> Result<Response, Error> {
    let headers: Vec<_> = request
        .headers()
        .filter(|(name, _)| name.starts_with("x-"))
        .collect();
    let seen = [
        format!("{:?}", (request.method(), request.path(), request.query())),
        format!("{:?}", request.param::<String>("a")),
        format!("{:?}", request.param::<String>("rest")),
        format!("{:?}", request.param::<u8>("a")),
        format!("{:?}", request.path_segments()),
        format!("{:?}", request.query_params()),
        format!("{:?}", request.query_value::<u8>("n")),
        format!("{headers:?}"),
        format!("{:?}", request.header("X-A")),
        format!("{:?}", request.json::<Vec<u8>>()),
        text(request.body()),
    ];
    Response::json(&seen)
}

fn entry(request: Request) -> Result<Response, HttpError> {
    let key: String = request.param("key")?;
    let found = kv::collection("entries").get_entry_bytes(&key)?;
    let entry = found.ok_or(Problem::new(404).detail("there is no such entry"))?;
    request.check_version(Some(entry.version))?;
    Ok(Response::new(200)
        .header("x-kind", "entry")
        .body(entry.value))
}

fn set_entry(request: Request) -> Result<Response, HttpError> {
    let key: String = request.param("key")?;
    let entries = kv::collection("entries");
    let current = entries.get_entry_bytes(&key)?.map(|entry| entry.version);
    let options = request.set_options(current)?;
    entries.set_bytes_with(&key, request.body(), options)?;
    Ok(Response::no_content())
}

fn fail(request: Request) -> Result<Response, HttpError> {
    let why = || "on purpose".to_owned();
    let error = match request.param::<String>("how")?.as_str() {
        "bad" => Error::BadRequest(kvasm_guest::http::BadRequest::new(why())),
        "invalid" => Error::Invalid(why()),
        "denied" => Error::Denied(why()),
        "absent" => Error::NotFound(why()),
        "conflict" => Error::Conflict(why()),
        "large" => Error::TooLarge(why()),
        "rate" => Error::RateLimited(why()),
        "remote" => Error::Remote(why()),
        "unavailable" => Error::Unavailable(why()),
        "quota" => Error::Quota(why()),
        "internal" => Error::Internal(why()),
        "text" => return Err("on purpose".into()),
        "status" => return Ok(Response::new(99)),
        "header" => return Ok(Response::new(200).header("a b", "c")),
        _ => panic!("on purpose"),
    };
    Err(error.into())
}

/// Runs steps in a request.
fn steps(request: Request) -> Result<Json<Vec<String>>, Error> {
    let steps: Vec<Step> = request.json()?;
    Ok(report(&steps))
}
