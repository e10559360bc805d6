//! The expansion of the attributes: an export, a line of the manifest, and the function. It is
//! unchanged, unless it is a transaction.

use crate::item::{Argument, Function, TypedArgument};
pub use crate::kind::Kind;
use crate::{args, harness, manifest, types};
use kvasm_abi::{MANIFEST_SECTION, TIMER_HANDLER};
use proc_macro2::{Literal, TokenStream};
use quote::{ToTokens, quote};
use syn::{Attribute, ReturnType, Type};

/// Returns the function and its export; on an error, the function and the error, so that the
/// compiler does not also report that the function is missing.
pub fn expand(kind: Kind, args: TokenStream, item: TokenStream) -> TokenStream {
    let function: Function = match syn::parse2(item.clone()) {
        Ok(function) => function,
        Err(e) => {
            let message = format!("`#[{}]` can only be applied to a function", kind.name());
            let error = syn::Error::new(e.span(), message).to_compile_error();
            return quote!(#item #error);
        }
    };
    let is_transaction = args::parse(kind, args.clone()).is_ok_and(|args| args.transaction);
    match export(kind, args, &function) {
        Ok(export) if is_transaction => match in_transaction(kind, &function) {
            Ok(function) => quote!(#function #export),
            Err(error) => with_error(&item, &error),
        },
        Ok(export) => quote!(#item #export),
        Err(error) => with_error(&item, &error),
    }
}

fn with_error(item: &TokenStream, error: &syn::Error) -> TokenStream {
    let error = error.to_compile_error();
    quote!(#item #error)
}

/// Makes the function a transaction wherever it is called.
fn in_transaction(kind: Kind, function: &Function) -> syn::Result<TokenStream> {
    let (inner, body) = function.split_body()?;
    let output = function_output(&function.output);
    let result = match kind {
        Kind::Http => quote!(::kvasm_guest::http::IntoResponse),
        _ => quote!(::kvasm_guest::IntoOutput),
    };
    let (argument, pattern, ty, input) = match function.inputs.first() {
        Some(Argument::Typed(argument)) => {
            let TypedArgument { attrs, pattern, ty } = argument;
            (
                quote!(#(#attrs)* __kvasm_input: #ty),
                pattern.clone(),
                ty.to_token_stream(),
                quote!(__kvasm_input),
            )
        }
        _ => (quote!(), quote!(()), quote!(()), quote!(())),
    };
    let Function {
        attrs,
        vis,
        constness,
        ident,
        output: returned,
        ..
    } = function;
    Ok(quote! {
        #(#attrs)*
        #vis #constness fn #ident(#argument) #returned {
            #(#inner)*
            #[allow(unused_imports)]
            use ::kvasm_guest::__private::{CloneInput as _, KeepInput as _};
            ::kvasm_guest::__private::in_transaction(
                #input,
                |input: &#ty| (&::kvasm_guest::__private::Repeat(input)).again(),
                <#output as #result>::is_failure,
                |#pattern: #ty| -> #output { #body },
            )
        }
    })
}

fn export(kind: Kind, args: TokenStream, function: &Function) -> syn::Result<TokenStream> {
    let args = args::parse(kind, args)?;
    let name = match kind {
        Kind::Timer => TIMER_HANDLER.to_owned(),
        _ => args::export_name(&args, &function.ident)?,
    };
    let mut invoke = invoke(kind, function)?;
    // The response of a failed HTTP handler is an output all the same. So the handler is a part of the
    // host's transaction, which it can undo.
    if args.transaction && kind != Kind::Http {
        invoke = quote!(::kvasm_guest::__private::run_transaction(|| #invoke));
    }
    // An unnamed constant cannot clash with anything.
    let cfgs = function.attrs.iter().filter(|a| is_cfg(a));
    let line = manifest::line(kind, &name, &args);
    let section = section(&line);
    let types = types::section(kind, &name, function);
    // The symbol makes a second handler an error when the plugin is compiled or linked.
    let only = (kind == Kind::Http).then(|| {
        quote! {
            #[allow(unsafe_code)]
            #[unsafe(export_name = "kvasm_http_handler")]
            static ONLY_HTTP_HANDLER: u8 = 0;
        }
    });
    let registration = harness::register(&line, Some(&function.ident));
    // With the prefix it is no symbol that the C library or another crate calls, such as `write`.
    let symbol = format!("{}{name}", kvasm_abi::FUNCTION_EXPORTS);
    Ok(quote! {
        #(#cfgs)*
        const _: () = {
            #[allow(dead_code)]
            fn invoke() -> i32 {
                #invoke
            }
            #[cfg(target_arch = "wasm32")]
            #[allow(unsafe_code)]
            #[unsafe(export_name = #symbol)]
            extern "C" fn export() -> i32 {
                invoke()
            }
            #section
            #types
            #only
            #registration
        };
    })
}

/// Whether an attribute decides if the function exists at all.
fn is_cfg(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
}

/// The call that reads the input, runs the function and writes the output.
fn invoke(kind: Kind, signature: &Function) -> syn::Result<TokenStream> {
    let subject = kind.subject();
    refuse_qualifiers(subject, signature)?;
    let ident = &signature.ident;
    let mut inputs = signature.inputs.iter();
    let (first, second) = (inputs.next(), inputs.next());
    if let Some(second) = second {
        return Err(syn::Error::new_spanned(
            second.tokens(),
            too_many_arguments(kind),
        ));
    }
    let input = first.map(|first| argument(subject, first)).transpose()?;
    // Both types are spelt out, so that an unsuitable one is reported where it is written.
    match (kind, input, &signature.output) {
        (Kind::Function, None, output) => {
            let output = function_output(output);
            Ok(quote!(::kvasm_guest::__private::run::<#output>(#ident)))
        }
        (Kind::Function, Some(input), output) => {
            let output = function_output(output);
            Ok(quote!(::kvasm_guest::__private::run_with::<#input, #output>(#ident)))
        }
        (Kind::Http, Some(input), output) => {
            let output = function_output(output);
            Ok(quote!(::kvasm_guest::__private::run_http::<#input, #output>(#ident)))
        }
        (Kind::Http, None, _) => Err(syn::Error::new_spanned(
            ident,
            "an HTTP handler takes a `Request`",
        )),
        (Kind::Change, Some(input), output) => {
            let output = function_output(output);
            Ok(quote!(::kvasm_guest::__private::run_change::<#input, #output>(#ident)))
        }
        (Kind::Change, None, _) => Err(syn::Error::new_spanned(
            ident,
            "a handler of changes takes a `Change<T>`",
        )),
        (Kind::Timer, Some(input), output) => {
            let output = function_output(output);
            Ok(quote!(::kvasm_guest::__private::run_timer::<#input, #output>(#ident)))
        }
        (Kind::Timer, None, _) => Err(syn::Error::new_spanned(
            ident,
            "a handler of timers takes a `Timer<T>`",
        )),
        (Kind::Cron, None, output) => {
            let output = function_output(output);
            Ok(quote!(::kvasm_guest::__private::run_scheduled::<#output>(#ident)))
        }
        (Kind::Cron, Some(input), output) => {
            let output = function_output(output);
            Ok(quote!(::kvasm_guest::__private::run_scheduled_with::<#input, #output>(#ident)))
        }
    }
}

fn function_output(output: &ReturnType) -> TokenStream {
    match output {
        ReturnType::Default => quote!(()),
        ReturnType::Type(_, ty) => ty.to_token_stream(),
    }
}

fn too_many_arguments(kind: Kind) -> &'static str {
    match kind {
        Kind::Function => {
            "a plugin function takes at most one argument; use a struct for several values"
        }
        Kind::Http => "an HTTP handler takes one argument; a `Request`",
        Kind::Change => "a handler of changes takes one argument; a `Change<T>`",
        Kind::Timer => "a handler of timers takes one argument; a `Timer<T>`",
        Kind::Cron => "a scheduled handler takes at most one argument, a `ScheduledRun`",
    }
}

/// Returns the type of the argument.
fn argument<'a>(subject: &str, argument: &'a Argument) -> syn::Result<&'a Type> {
    match argument {
        Argument::Receiver(receiver) => Err(syn::Error::new_spanned(
            receiver,
            format!("{subject} cannot be a method"),
        )),
        Argument::Typed(argument) => match &argument.ty {
            Type::ImplTrait(ty) => Err(generic(subject, ty)),
            ty => Ok(ty),
        },
    }
}

/// Rejects functions that cannot be exported.
fn refuse_qualifiers(subject: &str, signature: &Function) -> syn::Result<()> {
    reject(&signature.asyncness, || {
        format!("{subject} cannot be `async`: the host calls it synchronously")
    })?;
    reject(&signature.unsafety, || {
        format!("{subject} cannot be `unsafe`: the host calls it")
    })?;
    reject(&signature.abi, || {
        format!("{subject} must have the Rust ABI; the macro creates the export")
    })?;
    if signature.generics.params.is_empty() {
        Ok(())
    } else {
        Err(generic(subject, &signature.generics))
    }
}

fn reject(part: &Option<impl ToTokens>, message: impl FnOnce() -> String) -> syn::Result<()> {
    match part {
        Some(part) => Err(syn::Error::new_spanned(part, message())),
        None => Ok(()),
    }
}

fn generic(subject: &str, part: impl ToTokens) -> syn::Error {
    syn::Error::new_spanned(part, format!("{subject} cannot be generic"))
}

/// Returns the static that adds lines to the manifest.
pub fn section(line: &str) -> TokenStream {
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
pub(crate) mod tests {
    use super::*;

    pub(crate) fn expanded(kind: Kind, args: &str, item: &str) -> String {
        expand(kind, args.parse().unwrap(), item.parse().unwrap()).to_string()
    }

    #[test]
    fn function_gets_an_export_and_a_manifest_line() {
        let code = expanded(
            Kind::Function,
            "name = \"add-one\"",
            "#[cfg(a)] fn add(Json(n): Json<u8>) {}",
        );
        assert!(code.contains("fn add"));
        assert!(code.contains("export_name = \"kvasm_function:add-one\""));
        assert!(
            code.contains(r#"b"{\"kind\":\"function\",\"name\":\"add-one\"}\n""#),
            "{code}"
        );
        assert_eq!(code.matches("cfg (a)").count(), 2);
        let raw = expanded(Kind::Function, "", "fn r#match() {}");
        assert!(raw.contains("export_name = \"kvasm_function:match\""));
    }

    #[test]
    fn handler_gets_an_export_and_a_manifest_line() {
        let code = expanded(Kind::Http, "", "fn handle(r: Request) -> Response {}");
        assert!(
            code.contains("export_name = \"kvasm_function:handle\""),
            "{code}"
        );
        assert!(
            code.contains(r#"b"{\"kind\":\"http\",\"name\":\"handle\"}\n""#),
            "{code}"
        );
        assert!(code.contains("kvasm_http_handler"), "{code}");
        assert!(
            code.contains("run_http :: < Request , Response >"),
            "{code}"
        );
        let named = expanded(
            Kind::Http,
            "name = \"web\"",
            "fn handle(r: Request) -> Response {}",
        );
        assert!(
            named.contains("export_name = \"kvasm_function:web\""),
            "{named}"
        );
    }

    #[test]
    fn handler_of_timers_has_a_fixed_name() {
        let code = expanded(Kind::Timer, "", "fn due(t: Timer<u8>) -> Result<(), E> {}");
        assert!(
            code.contains("export_name = \"kvasm_function:on_timer\""),
            "{code}"
        );
        let line = r#"b"{\"kind\":\"on_timer\",\"name\":\"on_timer\"}\n""#;
        assert!(code.contains(line), "{code}");
        let call = "run_timer :: < Timer < u8 > , Result < () , E > >";
        assert!(code.contains(call), "{code}");
        assert_refused(
            Kind::Timer,
            &[
                (
                    "name = \"x\"",
                    "fn f(t: Timer<u8>) {}",
                    "takes no arguments",
                ),
                ("transaction", "fn f(t: Timer<u8>) {}", "omit `transaction`"),
                ("", "fn f() {}", "takes a `Timer<T>`"),
                ("", "fn f(a: A, b: B) {}", "takes one argument"),
                ("", "struct S;", "`#[on_timer]` can only"),
            ],
        );
    }

    pub(crate) fn assert_refused(kind: Kind, cases: &[(&str, &str, &str)]) {
        for (args, item, why) in cases {
            let code = expanded(kind, args, item);
            assert!(code.contains("compile_error"), "{args} {item}: {code}");
            assert!(code.contains(why), "{args} {item}: {code}");
        }
    }

    #[test]
    fn manifest_line_reflects_the_attribute_arguments() {
        let changes = "fn f(c: Change<Order>) -> Result<(), E> {}";
        for (kind, args, item, line) in [
            (
                Kind::Function,
                "transaction, name = \"g\"",
                "fn f() {}",
                r#"{\"kind\":\"function\",\"name\":\"g\",\"transaction\":true}"#,
            ),
            (
                Kind::Change,
                "collection = \"orders\", prefix = \"eu/\", on = \"set\"",
                changes,
                r#"{\"kind\":\"on_change\",\"name\":\"f\",\"collection\":\"orders\",\"prefix\":\"eu/\",\"on\":[\"set\"]}"#,
            ),
            (
                Kind::Change,
                "",
                changes,
                r#"{\"kind\":\"on_change\",\"name\":\"f\"}"#,
            ),
            (
                Kind::Http,
                "transaction",
                "fn f(r: Request) {}",
                r#"{\"kind\":\"http\",\"name\":\"f\",\"transaction\":true}"#,
            ),
            (
                Kind::Cron,
                "\"*/5 * * * mon-fri\", name = \"tick\"",
                "fn f() {}",
                r#"{\"kind\":\"cron\",\"name\":\"tick\",\"schedule\":\"*/5 * * * mon-fri\"}"#,
            ),
        ] {
            let code = expanded(kind, args, item);
            assert!(!code.contains("compile_error"), "{code}");
            assert!(code.contains(&format!("b\"{line}\\n\"")), "{line} {code}");
        }
        let code = expanded(Kind::Change, "", changes);
        let call = "run_change :: < Change < Order > , Result < () , E > >";
        assert!(code.contains(call), "{code}");
        let run = "\"* * * * *\"";
        let code = expanded(Kind::Cron, run, "fn f(run: ScheduledRun) {}");
        assert!(
            code.contains("run_scheduled_with :: < ScheduledRun , () >"),
            "{code}"
        );
        let code = expanded(Kind::Cron, run, "fn f() {}");
        assert!(code.contains("run_scheduled :: < () >"), "{code}");
    }

    #[test]
    fn invalid_trigger_is_a_compile_error_with_a_reason() {
        let long = format!("collection = \"{}\"", "c".repeat(129));
        let f = "fn f(c: Change<u8>) {}";
        assert_refused(
            Kind::Change,
            &[
                ("collection = \"\"", f, "a collection needs 1 to 128 bytes"),
                (&long, f, "a collection needs 1 to 128 bytes"),
                ("collection = \"\\0\"", f, "cannot contain a NUL"),
                ("collection = \"c\", prefix = \"\"", f, "matches every key"),
                ("collection = \"c\", on = \"update\"", f, "`on` must be"),
                ("collection = \"c\", on = \"\"", f, "`on` must be"),
                ("collection = \"c\", collection = \"d\"", f, "given twice"),
                ("prefix = \"p\"", f, "no trigger of its own"),
                ("on = \"set\"", f, "no trigger of its own"),
                ("transaction", f, "every run of a handler is"),
                ("", "fn f() {}", "takes a `Change<T>`"),
                ("", "fn f(a: A, b: B) {}", "takes one argument"),
                ("", "struct S;", "`#[on_change]` can only"),
                (
                    "",
                    "async fn f(c: Change<u8>) {}",
                    "a handler of changes cannot be",
                ),
            ],
        );
        let f = "fn f() {}";
        assert_refused(
            Kind::Cron,
            &[
                ("", f, "expected a schedule"),
                ("name = \"x\"", f, "expected a schedule"),
                ("\"\"", f, "this one has 0"),
                ("\"* * * *\"", f, "this one has 4"),
                ("\"0 * * * * *\"", f, "this one has 6"),
                ("\"@daily\"", f, "this one has 1"),
                ("\"99 * * * *\"", f, "the minute must be 0 to 59"),
                ("\"* * * * *\" name = \"x\"", f, "expected `,`"),
                ("\"* * * * *\", on = \"set\"", f, "unknown argument"),
                (
                    "\"* * * * *\"",
                    "fn f(a: A, b: B) {}",
                    "at most one argument",
                ),
            ],
        );
        let twice = ("transaction, transaction", f, "given twice");
        assert_refused(Kind::Function, &[twice]);
        assert_refused(Kind::Http, &[twice]);
    }

    #[test]
    fn invalid_export_is_a_compile_error_with_a_reason() {
        let cases = [
            ("", "struct S;", "be applied to a function"),
            ("nam = \"x\"", "fn f() {}", "unknown argument"),
            ("name", "fn f() {}", "expected `=`"),
            ("name = 1", "fn f() {}", "expected string literal"),
            ("name = \"a\", name = \"b\"", "fn f() {}", "given twice"),
            ("name = \"a b\"", "fn f() {}", "cannot contain ' '"),
            ("", "fn memory() {}", "has a special meaning"),
            ("", "async fn f() {}", "cannot be `async`"),
            ("", "unsafe fn f() {}", "cannot be `unsafe`"),
            ("", "extern \"C\" fn f() {}", "must have the Rust ABI"),
            ("", "fn f<T>() {}", "cannot be generic"),
            ("", "fn f(a: impl Copy) {}", "cannot be generic"),
            ("", "fn f(&self) {}", "cannot be a method"),
        ];
        assert_refused(Kind::Function, &cases);
        assert_refused(Kind::Http, &cases);
        let function = [("", "fn f(a: A, b: B) {}", "at most one argument")];
        assert_refused(Kind::Function, &function);
        let handler = [
            ("", "struct S;", "`#[http]` can only"),
            ("", "async fn f() {}", "an HTTP handler cannot be"),
            ("", "fn f(a: A, b: B) -> R {}", "takes one argument"),
            ("", "fn f() -> Response {}", "takes a `Request`"),
        ];
        assert_refused(Kind::Http, &handler);
    }
}
