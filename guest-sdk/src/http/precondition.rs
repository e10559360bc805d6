//! Preconditions of requests: `If-Match` and `If-None-Match` (RFC 9110, section 13).

use super::{Problem, Request, Response};
use crate::kv::SetOptions;
use kvasm_abi::{EntityTag, EntityTags};

/// Returns the entity tag of a version of an entry: `"7"`, with the quotes.
///
/// A version that a transaction has written is provisional: do not send its tag.
pub fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

impl Response {
    /// Adds the `ETag` of a version of an entry.
    pub fn etag(self, version: u64) -> Response {
        self.header("etag", etag(version))
    }
}

/// A list of entity tags.
enum Tags<'h> {
    /// `*`
    Any,
    These(Vec<EntityTag<'h>>),
}

impl<'h> Tags<'h> {
    fn parse(text: &'h str) -> Option<Tags<'h>> {
        if text.trim() == "*" {
            return Some(Tags::Any);
        }
        let tags: Vec<_> = EntityTags::new(text).collect::<Result<_, _>>().ok()?;
        (!tags.is_empty()).then_some(Tags::These(tags))
    }

    /// Whether one of them is that of the current version. A weak one counts only for a weak
    /// comparison.
    fn contain(&self, current: Option<u64>, is_weak_enough: bool) -> bool {
        match (self, current) {
            (_, None) => false,
            (Tags::Any, Some(_)) => true,
            (Tags::These(tags), Some(current)) => {
                let current = current.to_string();
                let mut tags = tags.iter();
                tags.any(|tag| tag.opaque == current && (is_weak_enough || !tag.is_weak))
            }
        }
    }
}

/// Preconditions on the version of an entry, whose `ETag` is that of [`etag`].
impl Request {
    /// Checks `If-Match` and `If-None-Match` against the current version of the entry that the
    /// request is about; `None` if there is none. Without these headers there is nothing to check.
    ///
    /// # Errors
    /// The response: 412 if a precondition fails, except 304 with the `ETag` for a `GET` or `HEAD`
    /// whose `If-None-Match` has the version; 400 if a header is malformed.
    ///
    /// ```
    /// use kvasm_guest::http::{HttpError, Request, Response};
    /// use kvasm_guest::{kv, testing};
    ///
    /// #[kvasm_guest::http]
    /// fn handle(request: Request) -> Result<Option<Response>, HttpError> {
    ///     let Some(note) = kv::collection("notes").get_entry::<String>("today")? else {
    ///         return Ok(None);
    ///     };
    ///     request.check_version(Some(note.version))?;
    ///     Ok(Some(Response::text(note.value).etag(note.version)))
    /// }
    ///
    /// kv::collection("notes").set("today", "buy paper")?;
    /// let get = Request::get("/").build();
    /// let first = testing::call_http(handle, get).unwrap();
    /// let tag = first.header_value("etag").unwrap_or_default();
    /// let again = Request::get("/").header("if-none-match", tag).build();
    /// assert_eq!(testing::call_http(handle, again), Ok(Response::not_modified(tag)));
    /// # Ok::<(), kvasm_guest::Error>(())
    /// ```
    pub fn check_version(&self, current: Option<u64>) -> Result<(), Response> {
        let if_match = self.all_values("if-match");
        let if_none_match = self.all_values("if-none-match");
        if let Some(tags) = &if_match
            && !parse(tags)?.contain(current, false)
        {
            return Err(Problem::new(412).into());
        }
        if let Some(tags) = &if_none_match
            && parse(tags)?.contain(current, true)
        {
            return Err(match (self.method(), current) {
                ("GET" | "HEAD", Some(current)) => Response::not_modified(etag(current)),
                _ => Problem::new(412).into(),
            });
        }
        Ok(())
    }

    /// Like [`Request::check_version`], and returns options with which a write succeeds only if the
    /// version is still the current one. Without a precondition they are those of any write. A
    /// change in between is [`Error::Conflict`](crate::Error::Conflict), which is also answered with
    /// 412.
    ///
    /// # Errors
    /// As [`Request::check_version`].
    ///
    /// ```
    /// use kvasm_guest::http::{HttpError, Request, Response};
    /// use kvasm_guest::{kv, testing};
    ///
    /// #[kvasm_guest::http]
    /// fn handle(request: Request) -> Result<Response, HttpError> {
    ///     let notes = kv::collection("notes");
    ///     let current = notes.get_entry_bytes("today")?.map(|note| note.version);
    ///     let options = request.set_options(current)?;
    ///     let version = notes.set_bytes_with("today", request.body(), options)?;
    ///     Ok(Response::no_content().etag(version))
    /// }
    ///
    /// let put = |tag| Request::put("/").header("if-none-match", tag).body("buy paper").build();
    /// assert_eq!(testing::call_http(handle, put("*")).unwrap().status, 204);
    /// assert_eq!(testing::call_http(handle, put("*")).unwrap().status, 412);
    /// ```
    pub fn set_options(&self, current: Option<u64>) -> Result<SetOptions, Response> {
        self.check_version(current)?;
        let options = SetOptions::new();
        Ok(match current {
            _ if !self.is_conditional() => options,
            Some(version) => options.if_version(version),
            None => options.if_absent(),
        })
    }

    /// Whether the client has made its request conditional on what it has read.
    pub(super) fn is_conditional(&self) -> bool {
        self.header("if-match").is_some() || self.header("if-none-match").is_some()
    }

    /// The values of all headers of a name, as one list.
    fn all_values(&self, name: &str) -> Option<String> {
        let values = self.headers().filter(|(found, _)| *found == name);
        let values: Vec<&str> = values.map(|(_, value)| value).collect();
        (!values.is_empty()).then(|| values.join(","))
    }
}

fn parse(list: &str) -> Result<Tags<'_>, Response> {
    Tags::parse(list).ok_or_else(|| {
        let detail = "If-Match and If-None-Match are * or a list of quoted ETags, such as \"7\".";
        Problem::new(400).detail(detail).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the statuses for an absent entry, version 7 and version 8; 0 if it may go on.
    fn statuses(method: &str, headers: &[(&str, &str)]) -> [u16; 3] {
        let request = headers
            .iter()
            .fold(Request::builder(method, "/"), |request, (name, value)| {
                request.header(name, *value)
            })
            .build();
        [None, Some(7), Some(8)].map(|current| {
            let checked = request.check_version(current);
            checked.map_or_else(|response| response.status, |()| 0)
        })
    }

    #[test]
    fn etags_are_compared_as_rfc_9110_says() {
        for (headers, put, get) in [
            (&[][..], [0, 0, 0], [0, 0, 0]),
            (&[("if-match", "*")], [412, 0, 0], [412, 0, 0]),
            (&[("if-match", "\"7\"")], [412, 0, 412], [412, 0, 412]),
            (&[("if-match", "W/\"7\"")], [412; 3], [412; 3]),
            (
                &[("if-match", "\"1\" , \"7\"")],
                [412, 0, 412],
                [412, 0, 412],
            ),
            (
                &[("if-match", "\"8\""), ("if-match", "\"7\"")],
                [412, 0, 0],
                [412, 0, 0],
            ),
            (&[("if-none-match", "*")], [0, 412, 412], [0, 304, 304]),
            (&[("if-none-match", "\"7\"")], [0, 412, 0], [0, 304, 0]),
            (
                &[("if-none-match", "W/\"7\",\"8\"")],
                [0, 412, 412],
                [0, 304, 304],
            ),
            (&[("if-none-match", "\"07\"")], [0, 0, 0], [0, 0, 0]),
            (
                &[("if-match", "*"), ("if-none-match", "\"7\"")],
                [412, 412, 0],
                [412, 304, 0],
            ),
            (&[("if-match", "7")], [400; 3], [400; 3]),
            (&[("if-none-match", "\"7")], [400; 3], [400; 3]),
            (&[("if-none-match", "")], [400; 3], [400; 3]),
            (&[("if-match", "*, \"7\"")], [400; 3], [400; 3]),
        ] {
            assert_eq!(statuses("PUT", headers), put, "PUT {headers:?}");
            assert_eq!(statuses("GET", headers), get, "GET {headers:?}");
            assert_eq!(statuses("HEAD", headers), get, "HEAD {headers:?}");
        }
    }

    #[test]
    fn write_is_conditional_if_the_request_is() {
        let plain = Request::put("/").build();
        assert_eq!(plain.set_options(Some(7)), Ok(SetOptions::new()));
        let request = Request::put("/").header("If-Match", etag(7)).build();
        let expected = SetOptions::new().if_version(7);
        assert_eq!(request.set_options(Some(7)), Ok(expected));
        let request = Request::put("/").header("If-None-Match", "*").build();
        assert_eq!(request.set_options(None), Ok(SetOptions::new().if_absent()));
    }
}
