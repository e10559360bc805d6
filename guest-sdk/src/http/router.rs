//! Routes: which function answers a request, by its method and path.

use super::route::{self, Pattern};
use super::{HttpError, IntoResponse, Problem, Request, Response};

type Handler<'h> = Box<dyn FnOnce(Request) -> Result<Response, HttpError> + 'h>;

struct Route<'h> {
    /// `None` for any.
    method: Option<&'h str>,
    pattern: Pattern<'h>,
    handler: Handler<'h>,
}

/// Calls the function whose method and pattern match a request.
///
/// A pattern is a path whose segments are literal, or parameters as in `/users/{id}`, which match
/// one segment that is not empty. A last segment `{*name}` matches the rest of the path after
/// its slash, which may be empty. [`Request::param`] returns a parameter, percent-decoded. A literal segment is
/// preferred to a parameter, and a parameter to a rest, from left to right; of equal patterns the
/// first one applies. `/users` and `/users/` differ.
///
/// - No pattern matches the path: 404.
/// - Only those of other methods match: 405 with `Allow`, or 204 with `Allow` for `OPTIONS`.
/// - `HEAD` is handled as `GET`, of which the host sends no body.
/// - An escape of a parameter is malformed or not UTF-8, as `%zz` and `%ff`: 400.
///
/// These responses are [problems](Problem).
///
/// ```
/// use kvasm_guest::http::{HttpError, Request, Response, Router};
/// use kvasm_guest::{Error, Json, kv, testing};
///
/// #[kvasm_guest::http]
/// fn handle(request: Request) -> Result<Response, HttpError> {
///     Router::new()
///         .get("/scores/{player}", score)
///         .put("/scores/{player}/{points}", set_score)
///         .handle(request)
/// }
///
/// fn score(request: Request) -> Result<Option<Json<u64>>, Error> {
///     let player: String = request.param("player")?;
///     Ok(kv::collection("scores").get(&player)?.map(Json))
/// }
///
/// fn set_score(request: Request) -> Result<(), Error> {
///     let player: String = request.param("player")?;
///     kv::collection("scores").set(&player, &request.param::<u64>("points")?)?;
///     Ok(())
/// }
///
/// let send = |method, path| {
///     testing::call_http(handle, Request::builder(method, path).build()).unwrap()
/// };
/// assert_eq!(send("PUT", "/scores/Ada%20L/7").status, 204);
/// assert_eq!(send("GET", "/scores/Ada%20L").body, b"7");
/// assert_eq!(send("GET", "/scores/Bob").status, 404);
/// assert_eq!(send("PUT", "/scores/Ada/many").status, 400);
/// let refused = send("DELETE", "/scores/Ada");
/// assert_eq!((refused.status, refused.header_value("allow")), (405, Some("GET, HEAD, OPTIONS")));
/// ```
#[derive(Default)]
#[must_use = "a router does nothing until `handle` is called"]
pub struct Router<'h> {
    routes: Vec<Route<'h>>,
    fallback: Option<Handler<'h>>,
}

impl<'h> Router<'h> {
    /// Returns a router without routes.
    pub fn new() -> Router<'h> {
        Router::default()
    }

    /// Adds a route for `GET` and `HEAD`.
    ///
    /// # Panics
    /// As [`Router::route`].
    #[track_caller]
    pub fn get<R: IntoResponse>(
        self,
        pattern: &'h str,
        handler: impl FnOnce(Request) -> R + 'h,
    ) -> Router<'h> {
        self.route("GET", pattern, handler)
    }

    /// Adds a route for `POST`.
    ///
    /// # Panics
    /// As [`Router::route`].
    #[track_caller]
    pub fn post<R: IntoResponse>(
        self,
        pattern: &'h str,
        handler: impl FnOnce(Request) -> R + 'h,
    ) -> Router<'h> {
        self.route("POST", pattern, handler)
    }

    /// Adds a route for `PUT`.
    ///
    /// # Panics
    /// As [`Router::route`].
    #[track_caller]
    pub fn put<R: IntoResponse>(
        self,
        pattern: &'h str,
        handler: impl FnOnce(Request) -> R + 'h,
    ) -> Router<'h> {
        self.route("PUT", pattern, handler)
    }

    /// Adds a route for `PATCH`.
    ///
    /// # Panics
    /// As [`Router::route`].
    #[track_caller]
    pub fn patch<R: IntoResponse>(
        self,
        pattern: &'h str,
        handler: impl FnOnce(Request) -> R + 'h,
    ) -> Router<'h> {
        self.route("PATCH", pattern, handler)
    }

    /// Adds a route for `DELETE`.
    ///
    /// # Panics
    /// As [`Router::route`].
    #[track_caller]
    pub fn delete<R: IntoResponse>(
        self,
        pattern: &'h str,
        handler: impl FnOnce(Request) -> R + 'h,
    ) -> Router<'h> {
        self.route("DELETE", pattern, handler)
    }

    /// Adds a route for a method, such as `PROPFIND`. Methods are case-sensitive.
    ///
    /// # Panics
    /// If the pattern does not begin with `/`, has a brace that does not enclose a whole segment, a
    /// parameter without a name, two of one name, or a `{*name}` that is not the last segment.
    #[track_caller]
    pub fn route<R: IntoResponse>(
        mut self,
        method: &'h str,
        pattern: &'h str,
        handler: impl FnOnce(Request) -> R + 'h,
    ) -> Router<'h> {
        self.add(Some(method), pattern, boxed(handler));
        self
    }

    /// Adds a route for all methods that have no route with an equal pattern before it.
    ///
    /// # Panics
    /// As [`Router::route`].
    #[track_caller]
    pub fn any<R: IntoResponse>(
        mut self,
        pattern: &'h str,
        handler: impl FnOnce(Request) -> R + 'h,
    ) -> Router<'h> {
        self.add(None, pattern, boxed(handler));
        self
    }

    /// Sets the handler of paths that no pattern matches, instead of 404.
    pub fn fallback<R: IntoResponse>(
        mut self,
        handler: impl FnOnce(Request) -> R + 'h,
    ) -> Router<'h> {
        self.fallback = Some(boxed(handler));
        self
    }

    /// Calls the handler of the request.
    ///
    /// # Errors
    /// The handler's; a response of the router itself is not an error.
    pub fn handle(self, mut request: Request) -> Result<Response, HttpError> {
        let Router { routes, fallback } = self;
        let path = request.path();
        let mut matching: Vec<Route<'h>> = routes
            .into_iter()
            .filter(|route| route.pattern.matches(path))
            .collect();
        if matching.is_empty() {
            return match fallback {
                Some(handler) => handler(request),
                None => Problem::new(404).into_response(),
            };
        }
        let best = best(&matching, request.method()).or_else(|| match request.method() {
            "HEAD" => best(&matching, "GET"),
            _ => None,
        });
        let Some(best) = best else {
            return Ok(other_method(&matching, request.method()));
        };
        let Route {
            pattern, handler, ..
        } = matching.swap_remove(best);
        match pattern.params(path) {
            Some(params) => request.set_params(params),
            None => {
                let detail = "An escape in the path is malformed or not UTF-8.";
                return Problem::new(400).detail(detail).into_response();
            }
        }
        handler(request)
    }

    #[track_caller]
    fn add(&mut self, method: Option<&'h str>, pattern: &'h str, handler: Handler<'h>) {
        let pattern = match Pattern::parse(pattern) {
            Ok(pattern) => pattern,
            Err(why) => panic!("the route {pattern:?} {why}"),
        };
        self.routes.push(Route {
            method,
            pattern,
            handler,
        });
    }
}

fn boxed<'h, R: IntoResponse>(handler: impl FnOnce(Request) -> R + 'h) -> Handler<'h> {
    Box::new(move |request| handler(request).into_response())
}

/// Returns the index of the route that applies to a method.
fn best(matching: &[Route<'_>], method: &str) -> Option<usize> {
    let of_method = matching
        .iter()
        .enumerate()
        .filter(|(_, route)| route.method.is_none_or(|known| known == method));
    let best = of_method.min_by(|(_, a), (_, b)| route::by_preference(&a.pattern, &b.pattern));
    best.map(|(index, _)| index)
}

fn other_method(matching: &[Route<'_>], method: &str) -> Response {
    let mut allowed: Vec<&str> = Vec::new();
    for known in matching.iter().filter_map(|route| route.method) {
        let implied = if known == "GET" {
            &["GET", "HEAD"][..]
        } else {
            &[known]
        };
        for &known in implied {
            if !allowed.contains(&known) {
                allowed.push(known);
            }
        }
    }
    if !allowed.contains(&"OPTIONS") {
        allowed.push("OPTIONS");
    }
    let response = match method {
        "OPTIONS" => Response::no_content(),
        _ => Problem::new(405).into(),
    };
    response.header("allow", allowed.join(", "))
}

impl std::fmt::Debug for Router<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let routes = self.routes.iter();
        let routes = routes.map(|route| (route.method.unwrap_or("*"), route.pattern.text()));
        f.debug_list().entries(routes).finish()
    }
}
