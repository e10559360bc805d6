//! HTTP handlers without a host: what they return, and what a client receives.
#![allow(clippy::unwrap_used)]

use kvasm_guest::http::{BadRequest, HttpError, IntoResponse, Problem, Request, Response, Router};
use kvasm_guest::kv::{self, Cursor};
use kvasm_guest::{Bytes, Error, Json, testing};
use serde_json::{Value, json};

/// Returns what the client receives for the result of a handler.
fn answer(result: impl IntoResponse) -> Result<Response, String> {
    testing::call_http(|_| result, Request::get("/").build())
}

fn status(result: impl IntoResponse) -> u16 {
    answer(result).unwrap().status
}

#[test]
fn handler_returns_anything_that_turns_into_a_response() {
    let text = answer("hi").unwrap();
    assert_eq!(text, answer("hi".to_owned()).unwrap());
    assert_eq!((text.status, text.body_text()), (200, "hi".into()));
    let json = answer((201, Json([1, 2]))).unwrap();
    assert_eq!((json.status, json.decode_json()), (201, Ok([1, 2])));
    assert_eq!(json.header_value("content-type"), Some("application/json"));
    let bytes = answer(Bytes(vec![0, 255])).unwrap();
    assert_eq!(bytes.body, [0, 255]);
    assert_eq!(status(()), 204);
    assert_eq!(status((202, ())), 202);
    assert_eq!(status(Some("x")), 200);
    assert_eq!(status(None::<&'static str>), 404);
    assert_eq!(status(Ok::<_, Error>(Some(Json(1)))), 200);
    assert_eq!(status(Problem::new(418)), 418);
    assert_eq!(status(Err::<(), _>(Problem::new(410))), 410);
    assert_eq!(status(Err::<Response, _>(Response::new(402))), 402);
    let invalid = Json(std::collections::BTreeMap::from([((1, 2), 3)]));
    assert!(answer(invalid).unwrap_err().contains("as JSON"));
}

#[test]
fn error_has_the_status_of_the_http_api_and_no_text() {
    const SECRET: &str = "the price of paper";
    let text = || SECRET.to_owned();
    for (error, expected) in [
        (Error::BadRequest(BadRequest::new(text())), 400),
        (Error::Invalid(text()), 400),
        (Error::Denied(text()), 403),
        (Error::NotFound(text()), 404),
        (Error::Conflict(text()), 409),
        (Error::TooLarge(text()), 413),
        (Error::RateLimited(text()), 429),
        (Error::Remote(text()), 502),
        (Error::Unavailable(text()), 503),
        (Error::Quota(text()), 507),
    ] {
        let response = answer(Err::<(), _>(error.clone())).unwrap();
        assert_eq!(response.status, expected, "{error:?}");
        assert!(!response.body_text().contains(SECRET));
        let body: Value = response.decode_json().unwrap();
        assert_eq!(body["status"], expected);
        // The same through the types that `?` converts to.
        assert_eq!(HttpError::from(error.clone()).status(), expected);
        assert_eq!(
            answer(Err::<(), Response>(error.clone().into())).unwrap(),
            response
        );
        assert_eq!(
            answer(Err::<(), Problem>(error.into())).unwrap().status,
            expected
        );
    }
    // The host answers with 500, and logs the text.
    for error in [Error::Type, Error::Internal, Error::Decode, Error::Encode] {
        let error = error(text());
        assert_eq!(answer(Err::<(), _>(error.clone())), Err(text()));
        let response = Response::from(error);
        assert_eq!(response.status, 500);
        assert!(!response.body_text().contains(SECRET));
    }
    assert_eq!(answer(Err::<(), _>(SECRET)), Err(text()));
}

#[test]
fn conflict_is_412_if_the_client_has_asked_for_a_version() {
    let fail = |_: Request| Err::<(), _>(Error::Conflict("changed".to_owned()));
    for name in ["if-match", "If-None-Match"] {
        let request = Request::put("/").header(name, "\"1\"").build();
        assert_eq!(testing::call_http(fail, request).unwrap().status, 412);
    }
    let request = Request::put("/").build();
    assert_eq!(testing::call_http(fail, request).unwrap().status, 409);
}

/// Lists keys from the cursor of the query.
fn list(request: Request) -> Result<Json<Vec<String>>, HttpError> {
    let list = kv::collection("c").list();
    let list = match request.query_param("cursor")? {
        Some(cursor) => list.cursor(cursor.parse::<Cursor>()?),
        None => list,
    };
    Ok(Json(list.page_keys()?.items))
}

#[test]
fn malformed_input_of_a_client_is_400() {
    let get = |target| testing::call_http(list, Request::get(target).build());
    assert_eq!(get("/").unwrap().status, 200);
    // Text that no cursor has, a cursor of another list, and escapes that are not UTF-8.
    for target in ["/?cursor=x", "/?cursor=AAAA", "/?cursor=%ff"] {
        assert_eq!(get(target).unwrap().status, 400, "{target}");
    }
    let read = |request: Request| request.json::<u32>().map(Json);
    let post = Request::post("/").body("{").build();
    assert_eq!(testing::call_http(read, post).unwrap().status, 400);
    // The client is shown what is wrong with what it has sent.
    let detail = |response: Response| -> Option<String> {
        let problem: serde_json::Value = response.decode_json().unwrap();
        problem["detail"].as_str().map(str::to_owned)
    };
    let shown = |body: &str| {
        let post = Request::post("/").body(body).build();
        detail(testing::call_http(read, post).unwrap()).unwrap()
    };
    assert_eq!(shown("[]"), "expected an integer from 0 to 4294967295");
    assert_eq!(shown("-1"), "expected an integer from 0 to 4294967295");
    assert_eq!(shown("{"), "expected an integer from 0 to 4294967295");
    assert_eq!(
        shown("1 2"),
        "not JSON: trailing characters at line 1 column 3"
    );
    for target in ["/?cursor=x", "/?cursor=AAAA"] {
        let response = get(target).unwrap();
        let shown = detail(response).unwrap();
        assert_eq!(
            shown,
            "the cursor is not one of this list; start again without one"
        );
    }
    let escapes = detail(get("/?cursor=%ff").unwrap()).unwrap();
    assert!(escapes.contains("is \"%ff\", whose escapes"), "{escapes}");
    // Not of other errors that are the client's fault, whose text may be the plugin's.
    let fail = |_: Request| Err::<(), _>(Error::Invalid("the key \"secret\"".to_owned()));
    let answer = testing::call_http(fail, Request::get("/").build()).unwrap();
    assert_eq!((answer.status, detail(answer)), (400, None));
    // A stored value of another type is the plugin's failure.
    kv::collection("c").set("k", "text").unwrap();
    let read = |_: Request| kv::collection("c").get::<u32>("k").map(Json);
    let get = Request::get("/").build();
    assert!(testing::call_http(read, get).is_err());
}

#[test]
fn problem_is_a_document() {
    let handler = |_: Request| -> Result<(), HttpError> {
        let problem = Problem::new(403).title("No credit").detail("Pay first");
        Err(problem.with("balance", 30))?
    };
    let response = testing::call_http(handler, Request::get("/").build()).unwrap();
    let kind = response.header_value("content-type");
    assert_eq!(kind, Some("application/problem+json"));
    let expected = json!({"title": "No credit", "status": 403, "detail": "Pay first",
        "balance": 30});
    assert_eq!(response.decode_json(), Ok(expected));
}

/// A handler of two resources.
fn routed(request: Request) -> Result<Response, HttpError> {
    let name = |request: Request| request.param::<String>("name");
    Router::new()
        .get("/", |_| "home")
        .get("/users/{id}", |r: Request| r.param::<u32>("id").map(Json))
        .get("/users/me", |_| "me")
        .delete("/users/{id}", |_| ())
        .put("/names/{name}", name)
        .any("/any/{*rest}", |r: Request| {
            let rest = r.param::<String>("rest")?;
            Ok::<_, Error>(format!("{} {rest}", r.method()))
        })
        .route("PURGE", "/any/{*rest}", |_| (202, ()))
        .get("/wrong", |r: Request| r.param::<String>("nome"))
        .handle(request)
}

fn send(method: &str, target: &str) -> Response {
    testing::call_http(routed, Request::builder(method, target).build()).unwrap()
}

#[test]
fn router_calls_the_handler_of_method_and_path() {
    for (method, target, status, body) in [
        ("GET", "/", 200, "home"),
        ("GET", "/?x=/users", 200, "home"),
        ("HEAD", "/", 200, "home"),
        ("GET", "/users/7", 200, "7"),
        ("GET", "/users/me", 200, "me"),
        ("GET", "/us%65rs/%6de", 200, "me"),
        ("DELETE", "/users/me", 204, ""),
        ("PUT", "/names/Ada%20L%2FB%c3%a9+", 200, "Ada L/Bé+"),
        ("PATCH", "/any/a/b/", 200, "PATCH a/b/"),
        ("GET", "/any/", 200, "GET "),
        ("OPTIONS", "/any/a", 200, "OPTIONS a"),
        ("OPTIONS", "/users/7", 204, ""),
    ] {
        let response = send(method, target);
        let found = (response.status, response.body_text());
        assert_eq!(found, (status, body.into()), "{method} {target}");
    }
}

#[test]
fn router_answers_what_has_no_handler() {
    for (method, target, status) in [
        ("GET", "/users", 404),
        ("GET", "/users/", 404),
        ("GET", "/users/7/", 404),
        ("GET", "//users/7", 404),
        ("OPTIONS", "/none", 404),
        ("GET", "/users/x", 400),
        ("GET", "/users/-1", 400),
        ("PUT", "/names/%ff", 400),
        ("PUT", "/names/%zz", 400),
        ("PUT", "/names/100%", 400),
        ("POST", "/users/7", 405),
        ("get", "/", 405),
    ] {
        let response = send(method, target);
        assert_eq!(response.status, status, "{method} {target}");
        let kind = response.header_value("content-type");
        assert_eq!(kind, Some("application/problem+json"), "{method} {target}");
    }
    let allow = |method, target| {
        send(method, target)
            .header_value("allow")
            .map(str::to_owned)
    };
    let both = Some("GET, HEAD, DELETE, OPTIONS".to_owned());
    assert_eq!(allow("POST", "/users/7"), both);
    assert_eq!(allow("OPTIONS", "/users/7"), both);
    assert_eq!(allow("GET", "/names/x").as_deref(), Some("PUT, OPTIONS"));
    // A parameter that the route does not have is the plugin's mistake.
    let wrong = testing::call_http(routed, Request::get("/wrong").build());
    assert_eq!(wrong, Err("the route has no parameter \"nome\"".to_owned()));
}

#[test]
fn fallback_answers_unknown_paths_only() {
    let router = || Router::new().get("/a", |_| ()).fallback(|_| (299, "other"));
    let status = |request| router().handle(request).unwrap().status;
    assert_eq!(status(Request::get("/b").build()), 299);
    assert_eq!(status(Request::put("/a").build()), 405);
}

#[test]
#[should_panic = "the route \"/a{b}\" has a brace that does not enclose a whole segment"]
fn invalid_route_panics() {
    drop(Router::new().get("/a{b}", |_| ()));
}

/// Writes, and ends as the path says.
#[kvasm_guest::http(transaction)]
fn write(request: Request) -> Result<(), HttpError> {
    kv::collection("t").increment("k", 1)?;
    match request.path() {
        "/ok" => Ok(()),
        "/response" => Err(Response::new(409).into()),
        "/error" => Err(Error::Quota("full".to_owned()).into()),
        "/panic" => panic!("it panics"),
        _ => Err("failed".into()),
    }
}

#[test]
fn transactional_handler_is_a_transaction_natively_too() {
    let written = || kv::collection("t").get::<i64>("k").unwrap();
    let request = |path| Request::get(path).build();
    for path in ["/response", "/error", "/other"] {
        assert!(write(request(path)).is_err());
        assert_eq!(written(), None, "{path}");
    }
    let status = |path| testing::call_http(write, request(path)).map(|answer| answer.status);
    assert_eq!(status("/response"), Ok(409));
    assert_eq!(status("/error"), Ok(507));
    assert_eq!(status("/other"), Err("failed".to_owned()));
    let panicked = std::panic::catch_unwind(|| write(Request::get("/panic").build()));
    assert!(panicked.is_err());
    assert_eq!(written(), None);
    assert_eq!((write(request("/ok")), written()), (Ok(()), Some(1)));
    // It is a part of a transaction that calls it.
    let undone = kv::transaction(|| {
        assert_eq!(write(request("/ok")), Ok(()));
        assert!(write(request("/response")).is_err());
        assert_eq!(written(), Some(2));
        Err::<(), _>(Error::Invalid("undone".to_owned()))
    });
    assert!(undone.is_err());
    assert_eq!(written(), Some(1));
}

/// A mistake in a route is shown at the plugin's line.
#[test]
fn invalid_route_panics_at_the_line_that_adds_it() {
    use std::sync::{Arc, Mutex};
    let places = Arc::new(Mutex::new(Vec::new()));
    let (seen, own) = (Arc::clone(&places), std::thread::current().id());
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| match info.location() {
        // Other tests run beside this one.
        Some(place) if std::thread::current().id() == own => {
            seen.lock()
                .unwrap()
                .push((place.file().to_owned(), place.line()));
        }
        _ => before(info),
    }));
    let first = line!();
    let added: [fn(); 3] = [
        || drop(Router::new().get("no-slash", |_| ())),
        || drop(Router::new().route("PURGE", "/{", |_| ())),
        || drop(Router::new().any("/{a}/{a}", |_| ())),
    ];
    for add in added {
        assert!(std::panic::catch_unwind(add).is_err());
    }
    let expected: Vec<_> = (2..5)
        .map(|line| (file!().to_owned(), first + line))
        .collect();
    assert_eq!(*places.lock().unwrap(), expected);
}
