//! What makes a request the same as another, and a response its final answer.

use kvasm_abi::http::split;
use kvasm_core::{Pieces, RequestHash, RequestHasher};
use kvasm_runtime::InvocationTarget;
use serde::Deserialize;

/// The bytes of a body that are hashed at once. Other tasks of the thread run in between.
const HASHED_AT_ONCE: usize = 64 * 1024;

/// The statuses below 500 that ask for another attempt: request timeout, too early, too many
/// requests.
const RETRIED_STATUSES: [u16; 3] = [408, 425, 429];

#[derive(Deserialize)]
struct HashedHead<'h> {
    #[serde(borrow)]
    method: std::borrow::Cow<'h, str>,
    #[serde(borrow)]
    path: std::borrow::Cow<'h, str>,
    #[serde(borrow, default)]
    query: std::borrow::Cow<'h, str>,
}

#[derive(Deserialize)]
struct FinalHead {
    status: u16,
}

/// Hashes what makes a request the same as another.
pub(super) async fn request_hash(target: &InvocationTarget, input: &Pieces) -> RequestHash {
    let frame = match target {
        InvocationTarget::Http => head_of(input),
        InvocationTarget::Function(_) | InvocationTarget::Handler(_) => None,
    };
    let head = frame.as_deref();
    let head = head.and_then(|head| serde_json::from_slice::<HashedHead<'_>>(head).ok());
    let (mut hasher, body_at) = match (target, &head) {
        (InvocationTarget::Function(name) | InvocationTarget::Handler(name), _) => {
            (RequestHasher::new(&[name]), 0)
        }
        (InvocationTarget::Http, Some(head)) => (
            RequestHasher::new(&[&head.method, &head.path, &head.query]),
            4 + frame.as_ref().map_or(0, Vec::len),
        ),
        // The plugin decides what it makes of a malformed frame.
        (InvocationTarget::Http, None) => (RequestHasher::new(&[]), 0),
    };
    let mut skip = body_at;
    for piece in input.iter() {
        let body = piece.get(skip..).unwrap_or_default();
        skip = skip.saturating_sub(piece.len());
        for part in body.chunks(HASHED_AT_ONCE) {
            hasher.update(part);
            if part.len() == HASHED_AT_ONCE {
                tokio::task::yield_now().await;
            }
        }
    }
    hasher.finish()
}

/// Returns the head of a framed request.
fn head_of(input: &Pieces) -> Option<Vec<u8>> {
    let mut prefix = [0; 4];
    if input.copy_to(0, &mut prefix) < prefix.len() {
        return None;
    }
    let len = usize::try_from(u32::from_le_bytes(prefix)).ok()?;
    if len > input.len().checked_sub(prefix.len())? {
        return None;
    }
    let mut head = vec![0; len];
    input.copy_to(prefix.len(), &mut head);
    Some(head)
}

/// Whether an output is the final answer of its request, rather than a failure after which the
/// request should run again.
pub(super) fn is_final(target: &InvocationTarget, output: &[u8]) -> bool {
    match target {
        InvocationTarget::Function(_) | InvocationTarget::Handler(_) => true,
        InvocationTarget::Http => {
            let head = split(output).ok();
            let head = head.and_then(|(head, _)| serde_json::from_slice::<FinalHead>(head).ok());
            head.is_some_and(|head| {
                (200..500).contains(&head.status) && !RETRIED_STATUSES.contains(&head.status)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_abi::http::prefix;

    fn framed(head: &str, body: &[u8]) -> Pieces {
        let mut pieces = Pieces::default();
        pieces.push(prefix(head.len()).unwrap().to_vec());
        let (first, rest) = head.as_bytes().split_at(head.len() / 2);
        pieces.push(first.to_vec());
        pieces.push(rest.to_vec());
        for part in body.chunks(3) {
            pieces.push(part.to_vec());
        }
        pieces
    }

    #[tokio::test]
    async fn request_of_a_handler_is_its_method_path_query_and_body() {
        let http = InvocationTarget::Http;
        let hash = async |head: &str, body: &[u8]| request_hash(&http, &framed(head, body)).await;
        let head = r#"{"method":"POST","path":"/a","query":"q=1","headers":[["x","1"]]}"#;
        let first = hash(head, b"the body").await;
        // Other headers, and other pieces.
        let other = r#"{"method":"POST","path":"/a","query":"q=1","headers":[]}"#;
        assert_eq!(first, hash(other, b"the body").await);
        let mut whole = Vec::new();
        framed(head, b"the body")
            .iter()
            .for_each(|p| whole.extend_from_slice(p));
        assert_eq!(first, request_hash(&http, &whole.into()).await);
        for (head, body) in [
            (head, "the bodies"),
            (&other.replace("POST", "PUT"), "the body"),
            (&other.replace("/a", "/b"), "the body"),
            (&other.replace("q=1", "q=2"), "the body"),
            ("{}", "the body"),
        ] {
            assert_ne!(first, hash(head, body.as_bytes()).await, "{head} {body}");
        }
        // A frame that ends within its head is hashed as a whole.
        let cut = Pieces::from(vec![9, 0, 0, 0, b'x']);
        let other = Pieces::from(vec![9, 0, 0, 0, b'y']);
        assert_ne!(
            request_hash(&http, &cut).await,
            request_hash(&http, &other).await
        );
    }

    #[tokio::test]
    async fn large_input_is_hashed_like_its_parts() {
        let target = InvocationTarget::Function("f".into());
        let bytes: Vec<u8> = (0..3 * HASHED_AT_ONCE + 7)
            .map(|at| (at % 251) as u8)
            .collect();
        let mut parts = Pieces::default();
        bytes
            .chunks(1_000)
            .for_each(|part| parts.push(part.to_vec()));
        let whole = request_hash(&target, &bytes.into()).await;
        assert_eq!(whole, request_hash(&target, &parts).await);
    }

    #[test]
    fn only_final_responses_of_handlers_are_kept() {
        let is_kept = |status: u16| {
            let head = format!(r#"{{"status":{status},"headers":[]}}"#);
            let output = [&prefix(head.len()).unwrap(), head.as_bytes(), b"body"].concat();
            is_final(&InvocationTarget::Http, &output)
        };
        let kept: Vec<_> = [
            200, 204, 303, 400, 404, 408, 409, 422, 425, 429, 499, 500, 503,
        ]
        .into_iter()
        .filter(|status| is_kept(*status))
        .collect();
        assert_eq!(kept, [200, 204, 303, 400, 404, 409, 422, 499]);
        assert!(!is_final(&InvocationTarget::Http, b"not a frame"));
        assert!(is_final(
            &InvocationTarget::Function("f".into()),
            b"anything"
        ));
    }
}
