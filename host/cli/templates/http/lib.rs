//! Notes over HTTP: `PUT /{name}` keeps a text, `GET /{name}` returns it, `GET /` lists the names.

use kvasm_guest::http::{Request, Response};
use kvasm_guest::{Error, kv};

/// Answers requests to the app, which has the path `/a/{app}/` on the server.
#[kvasm_guest::http]
fn handle(request: Request) -> Result<Response, Error> {
    let notes = kv::collection("notes");
    let name = request.path().trim_start_matches('/');
    match request.method() {
        "GET" if name.is_empty() => {
            let names: Result<Vec<String>, Error> = notes.list().keys().collect();
            Response::json(&names?)
        }
        "GET" => Ok(match notes.get::<String>(name)? {
            Some(text) => Response::text(text),
            None => Response::text("there is no such note").status(404),
        }),
        "PUT" if !name.is_empty() => {
            let Ok(text) = std::str::from_utf8(request.body()) else {
                return Ok(Response::text("a note is UTF-8").status(400));
            };
            notes.set(name, text)?;
            log::info!("kept {name:?}");
            Ok(Response::new(204))
        }
        _ => Ok(Response::new(405).header("allow", "GET, PUT")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_guest::testing;

    #[test]
    fn note_is_kept() {
        let send = |request: Request| testing::call_http(handle, request).unwrap();
        let put = Request::put("/shop").body("milk").build();
        assert_eq!(send(put).status, 204);
        assert_eq!(send(Request::get("/shop").build()), Response::text("milk"));
        assert_eq!(send(Request::get("/other").build()).status, 404);
        assert_eq!(send(Request::get("/").build()).body, br#"["shop"]"#);
        assert_eq!(send(Request::delete("/shop").build()).status, 405);
    }
}
