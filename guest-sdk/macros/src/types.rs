//! What `kvasm inspect` shows of an export: its types, and the routes of an HTTP handler, as written.
//! They are in a section of their own, which hosts do not read.

use crate::export::Kind;
use crate::item::{Argument, Function};
use crate::manifest;
use kvasm_abi::TYPES_SECTION;
use proc_macro2::{Delimiter, Literal, Spacing, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{LitStr, ReturnType};

/// The maximum size of a type or a route, in bytes; a longer one ends with `..`.
const TEXT_BYTES_MAX: usize = 200;
/// The maximum number of routes.
const ROUTES_MAX: usize = 100;
/// The methods of `Router` that take a pattern first.
const METHODS: [&str; 6] = ["any", "delete", "get", "patch", "post", "put"];

/// Returns the static that adds the export's line to the section, if there is something to say.
pub fn section(kind: Kind, name: &str, function: &Function) -> TokenStream {
    let line = line(kind, name, function);
    if line.is_empty() {
        return TokenStream::new();
    }
    let len = line.len();
    let line = Literal::byte_string(line.as_bytes());
    quote! {
        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code)]
        #[unsafe(link_section = #TYPES_SECTION)]
        pub static TYPES: [u8; #len] = *#line;
    }
}

/// Returns the line, including the newline; an empty one for an export without types.
fn line(kind: Kind, name: &str, function: &Function) -> String {
    let mut members = String::new();
    match kind {
        Kind::Function | Kind::Change | Kind::Timer => {
            if let Some(Argument::Typed(argument)) = function.inputs.first() {
                manifest::member(
                    &mut members,
                    "input",
                    &spelled(argument.ty.to_token_stream()),
                );
            }
        }
        Kind::Http => {
            let routes = routes(function.body.stream());
            for (number, route) in routes.iter().enumerate() {
                members.push_str(if number == 0 { ",\"routes\":[" } else { "," });
                manifest::string(&mut members, &cut(route));
            }
            if !routes.is_empty() {
                members.push(']');
            }
        }
        Kind::Cron => {}
    }
    if let (Kind::Function, ReturnType::Type(_, ty)) = (kind, &function.output) {
        manifest::member(&mut members, "output", &spelled(ty.to_token_stream()));
    }
    if members.is_empty() {
        return members;
    }
    let mut line = String::from("{\"name\":");
    manifest::string(&mut line, name);
    line + &members + "}\n"
}

/// Returns a type as people write it.
fn spelled(tokens: TokenStream) -> String {
    let mut text = String::new();
    spell(tokens, &mut text);
    cut(&text)
}

fn spell(tokens: TokenStream, text: &mut String) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                text.push_str(open);
                spell(group.stream(), text);
                text.push_str(close);
            }
            TokenTree::Punct(punct) => match (punct.as_char(), punct.spacing()) {
                ('-', Spacing::Joint) => text.push_str(" -"),
                ('>', _) if text.ends_with(" -") => text.push_str("> "),
                (c @ (',' | ';'), _) => text.extend([c, ' ']),
                (c @ ('+' | '='), _) => text.extend([' ', c, ' ']),
                (c, _) => text.push(c),
            },
            TokenTree::Ident(_) | TokenTree::Literal(_) => {
                let is_word = |c: char| c.is_alphanumeric() || c == '_';
                if text.ends_with(is_word) {
                    text.push(' ');
                }
                text.push_str(&token.to_string());
            }
        }
    }
}

fn cut(text: &str) -> String {
    match text.len() {
        0..=TEXT_BYTES_MAX => text.to_owned(),
        _ => format!("{}..", &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]),
    }
}

/// Returns the routes that a handler adds to a `Router`: calls such as `.get("/users/{id}", user)`. What
/// other functions add is not seen.
fn routes(body: TokenStream) -> Vec<String> {
    let mut routes = Vec::new();
    let mut has_router = false;
    find(body, &mut routes, &mut has_router);
    routes.truncate(if has_router { ROUTES_MAX } else { 0 });
    routes
}

fn find(tokens: TokenStream, routes: &mut Vec<String>, has_router: &mut bool) {
    let mut after_dot = false;
    let mut method = None;
    for token in tokens {
        match &token {
            TokenTree::Ident(ident) if after_dot => method = Some(ident.to_string()),
            TokenTree::Ident(ident) => {
                *has_router |= ident == "Router";
                method = None;
            }
            TokenTree::Group(group) => {
                let called = method.take();
                routes.extend(called.and_then(|method| route(&method, group.stream())));
                find(group.stream(), routes, has_router);
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => method = None,
        }
        after_dot = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '.');
    }
}

/// Returns the route that a call of a method of `Router` adds.
fn route(method: &str, arguments: TokenStream) -> Option<String> {
    let mut arguments = arguments.into_iter();
    // Text, and the comma before the handler.
    let mut text = || match (arguments.next(), arguments.next()) {
        (Some(first), Some(TokenTree::Punct(comma))) if comma.as_char() == ',' => {
            let literal: LitStr = syn::parse2(first.into()).ok()?;
            Some(literal.value())
        }
        _ => None,
    };
    let method = match method {
        "route" => text()?,
        "any" => "*".to_owned(),
        method if METHODS.contains(&method) => method.to_uppercase(),
        _ => return None,
    };
    let pattern = text()?;
    pattern
        .starts_with('/')
        .then(|| format!("{method} {pattern}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_of(kind: Kind, item: &str) -> String {
        line(kind, "f", &syn::parse_str(item).unwrap())
    }

    #[test]
    fn types_are_as_written() {
        for (item, expected) in [
            ("fn f() {}", ""),
            (
                "fn f(Json(x): Json<(u8,Vec<&'static str>)>) -> Result<Json<[u8;4]>, Box<dyn Error+Send>> {}",
                "{\"name\":\"f\",\"input\":\"Json<(u8, Vec<&'static str>)>\",\
                 \"output\":\"Result<Json<[u8; 4]>, Box<dyn Error + Send>>\"}\n",
            ),
            (
                "fn f(_: Bytes) {}",
                "{\"name\":\"f\",\"input\":\"Bytes\"}\n",
            ),
            (
                "fn f() -> Json<fn(u8)->a::B> {}",
                "{\"name\":\"f\",\"output\":\"Json<fn(u8) -> a::B>\"}\n",
            ),
        ] {
            assert_eq!(line_of(Kind::Function, item), expected, "{item}");
        }
        let change = line_of(Kind::Change, "fn f(c: Change<Order>) -> Result<(), E> {}");
        assert_eq!(change, "{\"name\":\"f\",\"input\":\"Change<Order>\"}\n");
        assert_eq!(line_of(Kind::Cron, "fn f(r: ScheduledRun) {}"), "");
        let long = format!("fn f() -> Json<{}> {{}}", "é".repeat(200));
        let long = line_of(Kind::Function, &long);
        assert!(long.ends_with("é..\"}\n") && long.len() < 240, "{long}");
    }

    #[test]
    fn routes_of_a_router_are_found() {
        let body = r#"{
            if x { return kvasm_guest::http::Router::new().any("/all", g).handle(r); }
            Router::new().get("/", |r| other(r)).put("/a/{b}", h).route("PROPFIND", "/c", i)
                .fallback(j).handle(r)
        }"#;
        let found = line_of(Kind::Http, &format!("fn f(r: Request) -> Response {body}"));
        let routes = r#"["* /all","GET /","PUT /a/{b}","PROPFIND /c"]"#;
        assert_eq!(found, format!("{{\"name\":\"f\",\"routes\":{routes}}}\n"));
        for body in [
            r#"{ map.get("/x", y) }"#,
            r#"{ Router::new().get(PATH, y).get("x", y).get("/x").got("/x", y) }"#,
            "{ routes().handle(r) }",
        ] {
            let item = format!("fn f(r: Request) -> Response {body}");
            assert_eq!(line_of(Kind::Http, &item), "", "{body}");
        }
    }
}
