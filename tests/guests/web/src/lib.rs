//! HTTP handlers with the SDK's router, for tests: each request is a transaction.

use kvasm_guest::http::{HttpError, Problem, Request, Response, Router};
use kvasm_guest::{Change, Error, Json, dead_letters, kv};

#[kvasm_guest::http(transaction)]
fn handle(request: Request) -> Result<Response, HttpError> {
    Router::new()
        .get("/where", r#where)
        .get("/notes/{key}", note)
        .put("/notes/{key}", set_note)
        .get("/notes/{key}/echo", |r: Request| r.param::<String>("key"))
        .post("/sum/{by}", add)
        .get("/sum", |_| {
            kv::collection("sums").get::<u64>("sum").map(Json)
        })
        .post("/undone/{how}", undone)
        .get("/errors/{kind}", error)
        .get("/status/{status}", status)
        .handle(request)
}

/// What the handler knows about its client.
type Place = (
    String,
    String,
    Option<String>,
    Option<String>,
    Option<String>,
);

fn r#where(request: Request) -> Json<Place> {
    Json((
        request.mount().to_owned(),
        request.scheme().to_owned(),
        request.authority().map(str::to_owned),
        request.client_address().map(|address| address.to_string()),
        request.absolute_url("/x?y"),
    ))
}

fn note(request: Request) -> Result<Option<Response>, HttpError> {
    let notes = kv::collection("notes");
    let Some(note) = notes.get_entry_bytes(&request.param::<String>("key")?)? else {
        return Ok(None);
    };
    request.check_version(Some(note.version))?;
    let response = Response::new(200).etag(note.version);
    Ok(Some(response.body(note.value)))
}

fn set_note(request: Request) -> Result<(), HttpError> {
    let (notes, key) = (kv::collection("notes"), request.param::<String>("key")?);
    let current = notes.get_entry_bytes(&key)?.map(|note| note.version);
    let options = request.set_options(current)?;
    notes.set_bytes_with(&key, request.body(), options)?;
    Ok(())
}

/// Adds to a sum by a read and a write, which loses additions unless it is a transaction.
fn add(request: Request) -> Result<Json<u64>, Error> {
    let sums = kv::collection("sums");
    let sum = sums.get::<u64>("sum")?.unwrap_or(0) + request.param::<u64>("by")?;
    sums.set("sum", &sum)?;
    Ok(Json(sum))
}

/// Writes, and answers in a way that keeps or undoes it.
fn undone(request: Request) -> Result<Response, HttpError> {
    kv::collection("notes").set("undone", &1)?;
    match request.param::<String>("how")?.as_str() {
        "ok" => Ok(Response::new(409)),
        "problem" => Err(Problem::new(409).detail("undone").into()),
        "error" => Err(Error::Quota("the secret reason".to_owned()).into()),
        "text" => Err("the secret reason".into()),
        _ => panic!("the secret reason"),
    }
}

fn error(request: Request) -> Result<(), HttpError> {
    let notes = kv::collection("notes");
    match request.param::<String>("kind")?.as_str() {
        "json" => drop(request.json::<u32>()?),
        "cursor" => drop(
            notes
                .list()
                .cursor("ab".parse::<kv::Cursor>()?)
                .page_keys()?,
        ),
        "key" => drop(notes.get::<u32>("")?),
        "size" => drop(notes.get::<u32>(&"k".repeat(100_000))?),
        "type" => {
            notes.set_bytes("bytes", "x")?;
            notes.get::<u32>("bytes")?;
        }
        _ => Err(Problem::new(404))?,
    }
    Ok(())
}

/// Answers with a body, whatever the status.
fn status(request: Request) -> Result<Response, Error> {
    Ok(Response::text("a body").status(request.param("status")?))
}

/// Fails in two ways.
#[kvasm_guest::on_change(collection = "jobs", attempts = 1, max_age = "1h")]
fn work(change: Change<String>) -> Result<(), String> {
    match change.value.as_deref() {
        Some("panic") => panic!("paper jam"),
        Some(text) => Err(text.to_owned()),
        None => Ok(()),
    }
}

#[kvasm_guest::function]
fn letters() -> Result<Json<Vec<String>>, Error> {
    let errors = dead_letters::list().map(|letter| letter.map(|letter| letter.error));
    errors.collect::<Result<_, _>>().map(Json)
}

/// The keys of a page, and the cursor of the next one.
type Keys = (Vec<String>, Option<kv::Cursor>);

/// Returns the key of a page of the notes with a prefix.
#[kvasm_guest::function]
fn keys(Json((prefix, cursor)): Json<(String, Option<kv::Cursor>)>) -> Result<Json<Keys>, Error> {
    let notes = kv::collection("notes").list();
    let page = notes.prefix(prefix).limit(1).cursor(cursor).page_keys()?;
    Ok(Json((page.items, page.cursor)))
}
