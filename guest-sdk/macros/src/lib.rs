//! The macros of `kvasm-guest`. Use them through that crate.

mod args;
mod function;
mod name;

use proc_macro::TokenStream;

/// Turns a function into an export of the plugin. `kvasm_guest::function` says how.
#[proc_macro_attribute]
pub fn function(args: TokenStream, item: TokenStream) -> TokenStream {
    function::expand(args.into(), item.into()).into()
}
