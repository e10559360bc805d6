//! `#[test]`: a native test with a harness; and the registration of exports that it finds.

use crate::item::{Argument, Function};
use proc_macro2::{Literal, TokenStream};
use quote::{ToTokens, quote};
use syn::Type;

/// Returns a test without arguments that calls the function with a new harness.
pub fn expand(args: TokenStream, item: TokenStream) -> TokenStream {
    let function: Function = match syn::parse2(item.clone()) {
        Ok(function) => function,
        Err(e) => {
            let message = "`#[kvasm_guest::test]` can only be applied to a function";
            let error = syn::Error::new(e.span(), message).to_compile_error();
            return quote!(#item #error);
        }
    };
    if let Err(error) = check(&args, &function) {
        let error = error.to_compile_error();
        return quote!(#item #error);
    }
    let Function {
        attrs,
        vis,
        ident,
        output,
        body,
        ..
    } = &function;
    let arguments = function.inputs.iter().map(Argument::tokens);
    quote! {
        #[cfg(not(target_arch = "wasm32"))]
        #[::core::prelude::v1::test]
        #(#attrs)*
        #vis fn #ident() #output {
            fn #ident(#(#arguments),*) #output #body
            #ident(&mut ::kvasm_guest::testing::Harness::new())
        }
    }
}

fn check(args: &TokenStream, function: &Function) -> syn::Result<()> {
    let refuse = |part: &dyn ToTokens, message: &str| Err(syn::Error::new_spanned(part, message));
    if !args.is_empty() {
        return refuse(args, "`#[kvasm_guest::test]` takes no arguments");
    }
    let signature = function;
    if let Some(part) = &signature.asyncness {
        return refuse(part, "a test of the harness cannot be `async`");
    }
    if !signature.generics.params.is_empty() {
        return refuse(&signature.generics, "a test cannot be generic");
    }
    let mut inputs = signature.inputs.iter();
    match (inputs.next(), inputs.next()) {
        (Some(Argument::Typed(argument)), None) if is_mutable_reference(&argument.ty) => Ok(()),
        _ => refuse(
            &signature.ident,
            "a test of the harness takes one argument, `&mut kvasm_guest::testing::Harness`",
        ),
    }
}

fn is_mutable_reference(ty: &Type) -> bool {
    matches!(ty, Type::Reference(reference) if reference.mutability.is_some())
}

/// Returns the registration of manifest lines in native builds; of an export with its function.
pub fn register(lines: &str, export: Option<&syn::Ident>) -> TokenStream {
    let lines = Literal::string(lines);
    let export = match export {
        Some(function) => quote!(::core::option::Option::Some((
            invoke,
            || ::kvasm_guest::__private::type_id(&#function),
        ))),
        None => quote!(::core::option::Option::None),
    };
    quote! {
        #[cfg(not(target_arch = "wasm32"))]
        ::kvasm_guest::__register!(#lines, #export);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(args: &str, item: &str) -> String {
        expand(args.parse().unwrap(), item.parse().unwrap()).to_string()
    }

    #[test]
    fn test_gets_a_harness() {
        let code = expanded(
            "",
            "#[should_panic] fn t(h: &mut Harness) -> Result<(), E> { Ok(()) }",
        );
        assert!(code.contains("prelude :: v1 :: test"), "{code}");
        assert!(code.contains("fn t () -> Result < () , E >"), "{code}");
        assert!(code.contains("testing :: Harness :: new ()"), "{code}");
    }

    #[test]
    fn unsuitable_test_is_a_compile_error_with_a_reason() {
        for (args, item, why) in [
            ("x", "fn t(h: &mut Harness) {}", "takes no arguments"),
            ("", "struct S;", "only be applied to a function"),
            ("", "fn t() {}", "takes one argument"),
            ("", "fn t(h: Harness) {}", "takes one argument"),
            ("", "fn t(h: &mut Harness, i: u8) {}", "takes one argument"),
            ("", "fn t(&mut self) {}", "takes one argument"),
            ("", "async fn t(h: &mut Harness) {}", "cannot be `async`"),
            ("", "fn t<T>(h: &mut T) {}", "cannot be generic"),
        ] {
            let code = expanded(args, item);
            assert!(code.contains("compile_error"), "{args} {item}: {code}");
            assert!(code.contains(why), "{args} {item}: {code}");
        }
    }
}
