//! `needs!`: what the plugin declares that it needs from its app.

use crate::{export, harness, manifest};
use kvasm_abi::names::{self, SETTING_BYTES_MAX, SETTING_CHARACTERS};
use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use std::collections::HashMap;
use syn::parse::{Parse, ParseStream, Parser};
use syn::spanned::Spanned;
use syn::{Expr, ExprLit, ExprUnary, Ident, Lit, LitStr, Token, Type, UnOp};

mod keyword {
    syn::custom_keyword!(config);
    syn::custom_keyword!(http);
    syn::custom_keyword!(required);
    syn::custom_keyword!(secret);
    syn::custom_keyword!(timers);
}

/// The maximum size of a description, in bytes.
const DESCRIPTION_BYTES_MAX: usize = 512;

/// Returns the manifest lines, and constants with which the compiler checks the defaults.
pub fn expand(items: TokenStream) -> TokenStream {
    let parsed = Needs::parse.parse2(items);
    let needs = match parsed {
        Ok(needs) => needs,
        Err(error) => return error.to_compile_error(),
    };
    let section = export::section(&needs.lines);
    let registration = harness::register(&needs.lines, None);
    let checks = needs.checks;
    quote! {
        const _: () = {
            #(#checks)*
            #section
            #registration
        };
    }
}

/// The needs of one invocation.
struct Needs {
    lines: String,
    checks: Vec<TokenStream>,
}

impl Parse for Needs {
    fn parse(input: ParseStream<'_>) -> syn::Result<Needs> {
        let mut needs = Needs {
            lines: String::new(),
            checks: Vec::new(),
        };
        let mut seen = HashMap::new();
        while !input.is_empty() {
            let (subject, span) = need(input, &mut needs)?;
            if seen.insert(subject.clone(), ()).is_some() {
                return Err(syn::Error::new(
                    span,
                    format!("{subject} is declared twice"),
                ));
            }
            if !input.is_empty() {
                input.parse::<Token![;]>()?;
            }
        }
        if needs.lines.is_empty() {
            return Err(input.error("expected `http`, `config`, `secret` or `timers`"));
        }
        Ok(needs)
    }
}

/// Parses one need. Returns what it is about, and where that is written.
fn need(input: ParseStream<'_>, needs: &mut Needs) -> syn::Result<(String, Span)> {
    let required = input.parse::<Option<keyword::required>>()?;
    let look = input.lookahead1();
    if look.peek(keyword::config) {
        input.parse::<keyword::config>()?;
        return config(input, required.is_some(), needs);
    }
    if look.peek(keyword::secret) {
        input.parse::<keyword::secret>()?;
        return secret(input, required.is_some(), needs);
    }
    if required.is_some() {
        return Err(look.error());
    }
    if look.peek(keyword::http) {
        input.parse::<keyword::http>()?;
        let origin: LitStr = input.parse()?;
        check_origin(&origin)?;
        let mut line = "{\"kind\":\"http_origin\"".to_owned();
        manifest::member(&mut line, "origin", &origin.value());
        end(&mut needs.lines, &line);
        return Ok((format!("the origin {:?}", origin.value()), origin.span()));
    }
    if look.peek(keyword::timers) {
        let timers = input.parse::<keyword::timers>()?;
        end(&mut needs.lines, "{\"kind\":\"timers\"");
        return Ok(("`timers`".to_owned(), timers.span));
    }
    Err(look.error())
}

fn end(lines: &mut String, line: &str) {
    lines.push_str(line);
    lines.push_str("}\n");
}

/// `NAME: TYPE [= DEFAULT] [, DESCRIPTION]`
fn config(
    input: ParseStream<'_>,
    required: bool,
    needs: &mut Needs,
) -> syn::Result<(String, Span)> {
    let (name, span) = name(input)?;
    input.parse::<Token![:]>()?;
    let ty: Type = input.parse()?;
    let kind = kind_of(&ty)?;
    let mut line = "{\"kind\":\"config\"".to_owned();
    manifest::member(&mut line, "name", &name);
    manifest::member(&mut line, "type", kind);
    if required {
        line.push_str(",\"required\":true");
    }
    if let Some(equals) = input.parse::<Option<Token![=]>>()? {
        let default: Expr = input.parse()?;
        if required {
            let message = "a required value needs no default; omit `required` or the default";
            return Err(syn::Error::new(equals.span(), message));
        }
        line.push_str(",\"default\":");
        line.push_str(&json_of(kind, &default)?);
        needs.checks.push(check_of(kind, &ty, &default));
    }
    describe(input, &mut line)?;
    end(&mut needs.lines, &line);
    Ok((format!("the configuration value {name:?}"), span))
}

/// `NAME [, DESCRIPTION]`
fn secret(
    input: ParseStream<'_>,
    required: bool,
    needs: &mut Needs,
) -> syn::Result<(String, Span)> {
    let (name, span) = name(input)?;
    let mut line = "{\"kind\":\"secret\"".to_owned();
    manifest::member(&mut line, "name", &name);
    if required {
        line.push_str(",\"required\":true");
    }
    describe(input, &mut line)?;
    end(&mut needs.lines, &line);
    Ok((format!("the secret {name:?}"), span))
}

/// Parses the name of a setting: an identifier or, for other characters, a literal.
fn name(input: ParseStream<'_>) -> syn::Result<(String, Span)> {
    let (name, span) = if input.peek(LitStr) {
        let literal: LitStr = input.parse()?;
        (literal.value(), literal.span())
    } else {
        let ident: Ident = input.parse()?;
        (ident.to_string(), ident.span())
    };
    match names::setting(name.as_bytes()) {
        Ok(_) => Ok((name, span)),
        Err(_) => {
            let message = format!("a name has 1 to {SETTING_BYTES_MAX} of {SETTING_CHARACTERS}");
            Err(syn::Error::new(span, message))
        }
    }
}

fn describe(input: ParseStream<'_>, line: &mut String) -> syn::Result<()> {
    if !input.peek(Token![,]) {
        return Ok(());
    }
    input.parse::<Token![,]>()?;
    let text: LitStr = input.parse()?;
    let value = text.value();
    if value.len() > DESCRIPTION_BYTES_MAX || value.contains(char::is_control) {
        let message = format!(
            "a description has at most {DESCRIPTION_BYTES_MAX} bytes, and no control characters"
        );
        return Err(syn::Error::new(text.span(), message));
    }
    manifest::member(line, "description", &value);
    Ok(())
}

/// Checks what needs no parser of URLs; the host checks the rest when the plugin is uploaded.
fn check_origin(origin: &LitStr) -> syn::Result<()> {
    let text = origin.value();
    let error = |message: &str| Err(syn::Error::new(origin.span(), message));
    let Some((scheme, authority)) = text.split_once("://") else {
        return error("an origin is written as \"https://api.example.com\"");
    };
    if !matches!(scheme, "https" | "http") {
        return error("the scheme of an origin is http or https");
    }
    if authority.contains(['/', '?', '#', '@', ' ']) {
        return error("an origin ends with the host or the port, without a slash, path or query");
    }
    match authority.strip_prefix("*.").unwrap_or(authority) {
        "" => error("the origin has no host"),
        host if host.contains('*') => {
            error("a star stands only for all subdomains, as in \"https://*.example.com\"")
        }
        _ => Ok(()),
    }
}

/// Returns the manifest's name of a type.
fn kind_of(ty: &Type) -> syn::Result<&'static str> {
    let ident = match ty {
        Type::Path(path) => path.path.get_ident().map(ToString::to_string),
        _ => None,
    };
    match ident.as_deref().unwrap_or_default() {
        "String" => Ok("string"),
        "bool" => Ok("boolean"),
        "f32" | "f64" => Ok("number"),
        "Json" => Ok("json"),
        "i8" | "i16" | "i32" | "i64" | "isize" | "u8" | "u16" | "u32" | "u64" | "usize" => {
            Ok("integer")
        }
        _ => {
            let message = "expected `String`, `bool`, an integer or float type, or `Json`";
            Err(syn::Error::new(ty.span(), message))
        }
    }
}

/// Returns a default as JSON. That it fits its Rust type is checked by the compiler.
fn json_of(kind: &str, default: &Expr) -> syn::Result<String> {
    let refuse = |message: &str| Err(syn::Error::new(default.span(), message));
    let (minus, literal) = match default {
        Expr::Unary(ExprUnary {
            op: UnOp::Neg(_),
            expr,
            ..
        }) => ("-", &**expr),
        other => ("", other),
    };
    let Expr::Lit(ExprLit { lit, .. }) = literal else {
        return refuse("a default is a literal");
    };
    match (kind, lit) {
        ("json", _) => refuse("a `Json` value has no default here; use it in the code"),
        ("string", Lit::Str(text)) if minus.is_empty() => {
            let mut json = String::new();
            manifest::string(&mut json, &text.value());
            Ok(json)
        }
        ("boolean", Lit::Bool(value)) if minus.is_empty() => Ok(value.value.to_string()),
        ("integer", Lit::Int(number)) => Ok(format!("{minus}{}", number.base10_digits())),
        ("number", Lit::Float(number)) => match number.base10_parse::<f64>()? {
            value if value.is_finite() => Ok(format!("{minus}{value:?}")),
            _ => refuse("the number is not finite"),
        },
        _ => refuse("the default is not of the declared type"),
    }
}

/// Returns a constant with which the compiler checks that a default fits its type.
fn check_of(kind: &str, ty: &Type, default: &Expr) -> TokenStream {
    match kind {
        "string" => TokenStream::new(),
        _ => quote_spanned!(default.span()=> const _: #ty = #default;),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(items: &str) -> Result<String, String> {
        let needs = Needs::parse.parse2(items.parse().unwrap());
        needs.map(|needs| needs.lines).map_err(|e| e.to_string())
    }

    #[test]
    fn needs_become_manifest_lines() {
        let found = lines(
            r#"http "https://*.example.com:8443"; timers;
            config retries: u32 = 3, "How often";
            config "base-url": String = "a\"b";
            config ratio: f64 = -0.5; config offset: i64 = -7;
            config verbose: bool = false; config rules: Json, "Rules";
            required config mode: String;
            secret signing_key; required secret "stripe-key", "Key of the API""#,
        );
        let expected = [
            r#"{"kind":"http_origin","origin":"https://*.example.com:8443"}"#,
            r#"{"kind":"timers"}"#,
            r#"{"kind":"config","name":"retries","type":"integer","default":3,"description":"How often"}"#,
            r#"{"kind":"config","name":"base-url","type":"string","default":"a\"b"}"#,
            r#"{"kind":"config","name":"ratio","type":"number","default":-0.5}"#,
            r#"{"kind":"config","name":"offset","type":"integer","default":-7}"#,
            r#"{"kind":"config","name":"verbose","type":"boolean","default":false}"#,
            r#"{"kind":"config","name":"rules","type":"json","description":"Rules"}"#,
            r#"{"kind":"config","name":"mode","type":"string","required":true}"#,
            r#"{"kind":"secret","name":"signing_key"}"#,
            r#"{"kind":"secret","name":"stripe-key","required":true,"description":"Key of the API"}"#,
            "",
        ];
        assert_eq!(found.unwrap(), expected.join("\n"));
    }

    #[test]
    fn invalid_need_is_a_compile_error_with_a_reason() {
        let long = format!("secret a, \"{}\"", "d".repeat(513));
        for (items, reason) in [
            ("", "expected `http`"),
            ("file \"/etc\"", "expected one of"),
            ("required timers", "expected `config` or `secret`"),
            ("timers timers", "expected `;`"),
            ("timers; timers", "`timers` is declared twice"),
            (
                "secret a; secret \"a\"",
                "the secret \"a\" is declared twice",
            ),
            ("config a: u8; config a: u8", "is declared twice"),
            ("http \"example.com\"", "is written as"),
            ("http \"ftp://example.com\"", "http or https"),
            ("http \"https://example.com/\"", "without a slash"),
            ("http \"https://a*.example.com\"", "only for all subdomains"),
            ("http \"https://\"", "no host"),
            ("http example", "expected string literal"),
            ("secret \"a b\"", "1 to 64 of"),
            ("secret \"\"", "1 to 64 of"),
            ("secret a, 1", "expected string literal"),
            ("secret a, \"x\\ny\"", "no control characters"),
            (&long, "at most 512 bytes"),
            ("config a", "expected `:`"),
            ("config a: Vec<u8>", "expected `String`"),
            ("config a: u8 = \"x\"", "not of the declared type"),
            ("config a: u8 = b", "is a literal"),
            ("config a: f64 = 1", "not of the declared type"),
            ("config a: String = -1", "not of the declared type"),
            ("config a: Json = 1", "has no default"),
            ("required config a: u8 = 1", "needs no default"),
        ] {
            let error = lines(items).expect_err(items);
            assert!(error.contains(reason), "{items}: {error}");
        }
    }
}
