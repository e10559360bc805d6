//! `#[function]`: an export, a line of the manifest, and the function as it was.

use crate::{args, name};
use kvasm_abi::MANIFEST_SECTION;
use proc_macro2::{Literal, TokenStream};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::{Attribute, FnArg, ItemFn, ReturnType, Signature, Type};

/// The function and its export; on an error the function and the error, so that
/// the compiler does not also complain that the function is missing.
pub fn expand(args: TokenStream, item: TokenStream) -> TokenStream {
    let function: ItemFn = match syn::parse2(item.clone()) {
        Ok(function) => function,
        Err(e) => {
            let error =
                syn::Error::new(e.span(), "`#[function]` goes on a function").to_compile_error();
            return quote!(#item #error);
        }
    };
    let export = export(args, &function).unwrap_or_else(|e| e.to_compile_error());
    quote!(#function #export)
}

fn export(args: TokenStream, function: &ItemFn) -> syn::Result<TokenStream> {
    let args = args::parse(args)?;
    let (name, span) = match args.name {
        Some(literal) => (literal.value(), literal.span()),
        None => (
            function.sig.ident.unraw().to_string(),
            function.sig.ident.span(),
        ),
    };
    name::check(&name, span)?;
    let invoke = invoke(&function.sig)?;
    // Without a name of its own, the constant cannot clash with anything.
    let cfgs = function.attrs.iter().filter(|a| is_cfg(a));
    let section = section(&name);
    Ok(quote! {
        #(#cfgs)*
        const _: () = {
            #[allow(dead_code)]
            fn invoke() -> i32 {
                #invoke
            }
            #[cfg(target_arch = "wasm32")]
            #[allow(unsafe_code)]
            #[unsafe(export_name = #name)]
            extern "C" fn export() -> i32 {
                invoke()
            }
            #section
        };
    })
}

/// The attributes that decide whether the function exists at all.
fn is_cfg(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
}

fn invoke(signature: &Signature) -> syn::Result<TokenStream> {
    refuse(
        &signature.asyncness,
        "a plugin function cannot be `async`: there is nothing to wait for",
    )?;
    refuse(
        &signature.unsafety,
        "a plugin function cannot be `unsafe`: the host calls it",
    )?;
    refuse(
        &signature.abi,
        "a plugin function has Rust's ABI; the macro makes the export",
    )?;
    refuse(&signature.variadic, "a plugin function cannot be variadic")?;
    let generics = &signature.generics;
    if !generics.params.is_empty() {
        return Err(syn::Error::new_spanned(
            generics,
            "a plugin function cannot be generic",
        ));
    }
    let ident = &signature.ident;
    let mut inputs = signature.inputs.iter();
    let (first, second) = (inputs.next(), inputs.next());
    if let Some(second) = second {
        let message = "a plugin function takes at most one argument; put the rest into its struct";
        return Err(syn::Error::new_spanned(second, message));
    }
    // Both types are spelt out, so that an unfit one is reported where it is written.
    let output = match &signature.output {
        ReturnType::Default => quote!(()),
        ReturnType::Type(_, ty) => ty.to_token_stream(),
    };
    match first {
        None => Ok(quote!(::kvasm_guest::__private::run::<#output>(#ident))),
        Some(FnArg::Receiver(receiver)) => Err(syn::Error::new_spanned(
            receiver,
            "a plugin function cannot be a method",
        )),
        Some(FnArg::Typed(argument)) => {
            let input = &argument.ty;
            if let Type::ImplTrait(ty) = &**input {
                return Err(syn::Error::new_spanned(
                    ty,
                    "a plugin function cannot be generic",
                ));
            }
            Ok(quote!(::kvasm_guest::__private::run_with::<#input, #output>(#ident)))
        }
    }
}

fn refuse(part: &Option<impl ToTokens>, message: &str) -> syn::Result<()> {
    match part {
        Some(part) => Err(syn::Error::new_spanned(part, message)),
        None => Ok(()),
    }
}

/// The function's line of the manifest. Names need no escapes in JSON.
fn section(name: &str) -> TokenStream {
    let line = format!("{{\"kind\":\"function\",\"name\":\"{name}\"}}\n");
    let len = line.len();
    let line = Literal::byte_string(line.as_bytes());
    quote! {
        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code)]
        #[unsafe(link_section = #MANIFEST_SECTION)]
        pub static MANIFEST: [u8; #len] = *#line;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(args: &str, item: &str) -> String {
        expand(args.parse().unwrap(), item.parse().unwrap()).to_string()
    }

    #[test]
    fn a_function_keeps_its_name_and_gets_an_export_and_a_line() {
        let code = expanded(
            "name = \"add-one\"",
            "#[cfg(a)] fn add(Json(n): Json<u8>) {}",
        );
        assert!(code.contains("fn add"));
        assert!(code.contains("export_name = \"add-one\""));
        assert!(
            code.contains(r#"b"{\"kind\":\"function\",\"name\":\"add-one\"}\n""#),
            "{code}"
        );
        assert_eq!(code.matches("cfg (a)").count(), 2);
        let raw = expanded("", "fn r#match() {}");
        assert!(raw.contains("export_name = \"match\""));
    }

    #[test]
    fn what_cannot_be_an_export_is_an_error_that_says_why() {
        for (args, item, why) in [
            ("", "struct S;", "goes on a function"),
            ("nam = \"x\"", "fn f() {}", "unknown argument"),
            ("name", "fn f() {}", "expected `=`"),
            ("name = 1", "fn f() {}", "expected string literal"),
            ("name = \"a\", name = \"b\"", "fn f() {}", "given twice"),
            ("name = \"a b\"", "fn f() {}", "cannot contain ' '"),
            ("", "fn exp() {}", "symbol that compiled code calls"),
            ("", "async fn f() {}", "cannot be `async`"),
            ("", "unsafe fn f() {}", "cannot be `unsafe`"),
            ("", "extern \"C\" fn f() {}", "has Rust's ABI"),
            ("", "fn f<T>() {}", "cannot be generic"),
            ("", "fn f(a: impl Copy) {}", "cannot be generic"),
            ("", "fn f(&self) {}", "cannot be a method"),
            ("", "fn f(a: A, b: B) {}", "at most one argument"),
        ] {
            let code = expanded(args, item);
            assert!(code.contains("compile_error"), "{args} {item}: {code}");
            assert!(code.contains(why), "{args} {item}: {code}");
        }
    }
}
