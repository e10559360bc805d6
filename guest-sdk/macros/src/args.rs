//! The arguments of `#[function(...)]` and `#[http(...)]`.

use proc_macro2::TokenStream;
use syn::LitStr;
use syn::parse::Parser;

/// What stands between the parentheses.
#[derive(Default)]
pub struct Args {
    /// `name = "..."`: the export's name.
    pub name: Option<LitStr>,
}

/// Reads the arguments. An unknown one is an error where it is written.
pub fn parse(tokens: TokenStream) -> syn::Result<Args> {
    let mut args = Args::default();
    let parser = syn::meta::parser(|meta| {
        if !meta.path.is_ident("name") {
            return Err(meta.error("unknown argument; `name = \"...\"` is the only one"));
        }
        if args.name.is_some() {
            return Err(meta.error("`name` is given twice"));
        }
        args.name = Some(meta.value()?.parse()?);
        Ok(())
    });
    parser.parse2(tokens)?;
    Ok(args)
}
