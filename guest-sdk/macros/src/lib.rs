//! The macros of `kvasm-guest`. Use them through that crate.

mod args;
mod export;
mod harness;
mod item;
mod kind;
mod manifest;
mod name;
mod needs;
mod retries;
mod schedule;
mod types;

use export::Kind;
use proc_macro::TokenStream;

/// Turns a function into an export of the plugin. See `kvasm_guest::function`.
#[proc_macro_attribute]
pub fn function(args: TokenStream, item: TokenStream) -> TokenStream {
    export::expand(Kind::Function, args.into(), item.into()).into()
}

/// Turns a function into the plugin's HTTP handler. See `kvasm_guest::http`.
#[proc_macro_attribute]
pub fn http(args: TokenStream, item: TokenStream) -> TokenStream {
    export::expand(Kind::Http, args.into(), item.into()).into()
}

/// Turns a function into a handler of changes. See `kvasm_guest::on_change`.
#[proc_macro_attribute]
pub fn on_change(args: TokenStream, item: TokenStream) -> TokenStream {
    export::expand(Kind::Change, args.into(), item.into()).into()
}

/// Turns a function into the handler of timers. See `kvasm_guest::on_timer`.
#[proc_macro_attribute]
pub fn on_timer(args: TokenStream, item: TokenStream) -> TokenStream {
    export::expand(Kind::Timer, args.into(), item.into()).into()
}

/// Turns a function into a scheduled handler. See `kvasm_guest::cron`.
#[proc_macro_attribute]
pub fn cron(args: TokenStream, item: TokenStream) -> TokenStream {
    export::expand(Kind::Cron, args.into(), item.into()).into()
}

/// Declares what the plugin needs from its app. See `kvasm_guest::needs`.
#[proc_macro]
pub fn needs(items: TokenStream) -> TokenStream {
    needs::expand(items.into()).into()
}

/// Turns a function into a native test of the plugin. See `kvasm_guest::test`.
#[proc_macro_attribute]
pub fn test(args: TokenStream, item: TokenStream) -> TokenStream {
    harness::expand(args.into(), item.into()).into()
}
