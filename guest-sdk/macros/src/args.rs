//! The arguments of the attributes: `#[function(...)]` and the others.

use crate::export::Kind;
use crate::{name, retries, schedule};
use kvasm_abi::names::{self, COLLECTION_BYTES_MAX, KEY_BYTES_MAX, TextError};
use proc_macro2::TokenStream;
use syn::meta::ParseNestedMeta;
use syn::parse::{ParseStream, Parser};
use syn::{LitInt, LitStr, Token};

/// The validated arguments of an attribute.
#[derive(Default)]
pub struct Args {
    /// `name = "..."`: the export's name.
    pub name: Option<LitStr>,
    /// `transaction`: each call of a function is a transaction.
    pub transaction: bool,
    /// `collection = "..."`: the collection whose changes the handler receives.
    pub collection: Option<LitStr>,
    /// `prefix = "..."`: the key prefix.
    pub prefix: Option<LitStr>,
    /// `on = "..."`: the kind of change.
    pub on: Option<LitStr>,
    /// `attempts = 4`: the maximum number of attempts.
    pub attempts: Option<LitInt>,
    /// `max_age = "1h"`: the maximum age of a failed delivery.
    pub max_age: Option<LitStr>,
    /// The schedule, a positional argument.
    pub schedule: Option<LitStr>,
}

/// Parses the arguments. An unknown one is reported at its position.
pub fn parse(kind: Kind, tokens: TokenStream) -> syn::Result<Args> {
    let mut args = Args::default();
    let rest = if kind == Kind::Cron {
        let (schedule, rest) = split_schedule.parse2(tokens)?;
        args.schedule = Some(schedule);
        rest
    } else {
        tokens
    };
    syn::meta::parser(|meta| argument(kind, &mut args, &meta)).parse2(rest)?;
    check(&args)?;
    Ok(args)
}

/// Splits off the schedule, and the rest after the comma.
fn split_schedule(input: ParseStream<'_>) -> syn::Result<(LitStr, TokenStream)> {
    if !input.peek(LitStr) {
        return Err(input.error("expected a schedule, such as `#[cron(\"*/5 * * * *\")]`"));
    }
    let schedule: LitStr = input.parse()?;
    if !input.is_empty() {
        input.parse::<Token![,]>()?;
    }
    Ok((schedule, input.parse()?))
}

fn argument(kind: Kind, args: &mut Args, meta: &ParseNestedMeta<'_>) -> syn::Result<()> {
    let given = meta.path.get_ident().map(ToString::to_string);
    let given = given.as_deref().unwrap_or_default();
    let slot = match (given, kind) {
        ("name", kind) if kind != Kind::Timer => &mut args.name,
        ("transaction", Kind::Function | Kind::Http) => {
            if args.transaction {
                return Err(meta.error("`transaction` is given twice"));
            }
            args.transaction = true;
            return Ok(());
        }
        ("transaction", Kind::Change | Kind::Cron | Kind::Timer) => {
            return Err(meta.error("every run of a handler is a transaction; omit `transaction`"));
        }
        ("collection", Kind::Change) => &mut args.collection,
        ("prefix", Kind::Change) => &mut args.prefix,
        ("on", Kind::Change) => &mut args.on,
        ("max_age", Kind::Change) => &mut args.max_age,
        ("attempts", Kind::Change) => {
            if args.attempts.is_some() {
                return Err(meta.error("`attempts` is given twice"));
            }
            args.attempts = Some(meta.value()?.parse()?);
            return Ok(());
        }
        _ => return Err(meta.error(unknown(kind))),
    };
    if slot.is_some() {
        return Err(meta.error(format!("`{given}` is given twice")));
    }
    *slot = Some(meta.value()?.parse()?);
    Ok(())
}

fn unknown(kind: Kind) -> &'static str {
    match kind {
        Kind::Function | Kind::Http => {
            "unknown argument; expected `name = \"...\"` or `transaction`"
        }
        Kind::Change => {
            "unknown argument; expected `collection`, `prefix`, `on`, `max_age` or `name`, each \
             `= \"...\"`, or `attempts = 4`"
        }
        Kind::Timer => "`#[on_timer]` takes no arguments",
        Kind::Cron => "unknown argument; expected `name = \"...\"` after the schedule",
    }
}

fn check(args: &Args) -> syn::Result<()> {
    if let Some(collection) = &args.collection {
        text(
            collection,
            "a collection",
            COLLECTION_BYTES_MAX,
            names::collection,
        )?;
    }
    if let Some(prefix) = &args.prefix {
        if prefix.value().is_empty() {
            return error(prefix, "an empty `prefix` matches every key; omit it");
        }
        text(prefix, "a prefix", KEY_BYTES_MAX, names::bound)?;
    }
    if let Some(on) = &args.on
        && !["set", "delete"].contains(&on.value().as_str())
    {
        return error(on, "`on` must be \"set\" or \"delete\"; omit it for both");
    }
    retries::check(args)?;
    if let (None, Some(given)) = (&args.collection, args.prefix.as_ref().or(args.on.as_ref())) {
        return error(
            given,
            "without `collection` the handler has no trigger of its own to narrow",
        );
    }
    match &args.schedule {
        Some(schedule) => schedule::check(&schedule.value()).or_else(|why| error(schedule, &why)),
        None => Ok(()),
    }
}

fn text(
    literal: &LitStr,
    subject: &str,
    bytes_max: usize,
    check: fn(&[u8]) -> Result<&str, TextError>,
) -> syn::Result<()> {
    match check(literal.value().as_bytes()) {
        Ok(_) => Ok(()),
        Err(TextError::Nul) => error(literal, &format!("{subject} cannot contain a NUL")),
        Err(_) => error(literal, &format!("{subject} needs 1 to {bytes_max} bytes")),
    }
}

pub fn error<T>(literal: &LitStr, message: &str) -> syn::Result<T> {
    Err(syn::Error::new(literal.span(), message))
}

/// Returns the export's name: the argument, or the function's name.
pub fn export_name(args: &Args, ident: &syn::Ident) -> syn::Result<String> {
    use syn::ext::IdentExt;
    let (name, span) = match &args.name {
        Some(literal) => (literal.value(), literal.span()),
        None => (ident.unraw().to_string(), ident.span()),
    };
    name::check(&name, span)?;
    Ok(name)
}
