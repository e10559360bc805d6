//! HTTP handlers: the function of a plugin that serves HTTP requests. And [`fetch`], which sends
//! requests to other servers.
//!
//! A plugin has at most one, marked with [`#[http]`](macro@crate::http). It receives every
//! request to the app, whatever its method and path.
//!
//! ```
//! use kvasm_guest::http::{Request, Response};
//! use kvasm_guest::{Error, kv};
//!
//! /// `PUT /name` stores a text, `GET /name` returns it.
//! #[kvasm_guest::http]
//! fn handle(request: Request) -> Result<Response, Error> {
//!     let texts = kv::collection("texts");
//!     match request.method() {
//!         "PUT" => {
//!             texts.set_bytes(request.path(), request.body())?;
//!             Ok(Response::new(204))
//!         }
//!         "GET" => Ok(match texts.get_bytes(request.path())? {
//!             Some(text) => Response::new(200).header("content-type", "text/plain").body(text),
//!             None => Response::text("there is no such text").status(404),
//!         }),
//!         _ => Ok(Response::new(405).header("allow", "GET, PUT")),
//!     }
//! }
//!
//! // Natively it is an ordinary function.
//! let put = Request::put("/greeting").body("hello").build();
//! assert_eq!(handle(put)?, Response::new(204));
//! assert_eq!(handle(Request::get("/greeting").build())?.body, b"hello");
//! assert_eq!(handle(Request::get("/other").build())?.status, 404);
//! # Ok::<(), kvasm_guest::Error>(())
//! ```

mod bad_request;
mod fetch;
pub(crate) mod handler;
mod http_error;
mod percent;
mod precondition;
mod problem;
mod request;
mod request_builder;
mod response;
mod route;
mod router;

pub use bad_request::BadRequest;
pub use fetch::fetch;
pub use handler::IntoResponse;
pub use http_error::HttpError;
pub use precondition::etag;
pub use problem::Problem;
pub use request::Request;
pub use request_builder::RequestBuilder;
pub use response::Response;
pub use router::Router;
