//! A function as the attributes need it. Its patterns and its body stay tokens: a parser of expressions
//! would be the larger part of what a new plugin compiles first.

use proc_macro2::{Group, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::parse::{Parse, ParseStream, Parser};
use syn::{
    Abi, Attribute, Generics, Ident, Lifetime, ReturnType, Token, Type, Visibility, parenthesized,
    token,
};

/// A function with a body.
pub struct Function {
    pub attrs: Vec<Attribute>,
    pub vis: Visibility,
    pub constness: Option<Token![const]>,
    pub asyncness: Option<Token![async]>,
    pub unsafety: Option<syn::token::Unsafe>,
    pub abi: Option<Abi>,
    pub ident: Ident,
    /// With the `where` clause.
    pub generics: Generics,
    pub inputs: Vec<Argument>,
    pub output: ReturnType,
    /// In braces.
    pub body: Group,
}

/// An argument of a function.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all have a type, and few exist at once"
)]
pub enum Argument {
    /// `self` in any form.
    Receiver(TokenStream),
    Typed(TypedArgument),
}

/// An argument by pattern and type.
pub struct TypedArgument {
    pub attrs: Vec<Attribute>,
    pub pattern: TokenStream,
    pub ty: Type,
}

impl Argument {
    /// What an error about the argument points at.
    pub fn tokens(&self) -> TokenStream {
        match self {
            Argument::Receiver(receiver) => receiver.clone(),
            Argument::Typed(TypedArgument { pattern, ty, .. }) => quote!(#pattern: #ty),
        }
    }
}

impl Function {
    /// Splits the body into the attributes at its beginning, such as `#![allow(..)]`, and the rest.
    pub fn split_body(&self) -> syn::Result<(Vec<Attribute>, TokenStream)> {
        let split =
            |input: ParseStream<'_>| Ok((input.call(Attribute::parse_inner)?, input.parse()?));
        split.parse2(self.body.stream())
    }
}

impl Parse for Function {
    fn parse(input: ParseStream<'_>) -> syn::Result<Function> {
        let attrs = input.call(Attribute::parse_outer)?;
        let vis = input.parse()?;
        let constness = input.parse()?;
        let asyncness = input.parse()?;
        let unsafety = input.parse()?;
        let abi = match input.peek(Token![extern]) {
            true => Some(input.parse()?),
            false => None,
        };
        input.parse::<Token![fn]>()?;
        let ident = input.parse()?;
        let mut generics: Generics = input.parse()?;
        let content;
        parenthesized!(content in input);
        let mut inputs = Vec::new();
        while !content.is_empty() {
            inputs.push(content.parse()?);
            if !content.is_empty() {
                content.parse::<Token![,]>()?;
            }
        }
        let output = input.parse()?;
        generics.where_clause = input.parse()?;
        if !input.peek(token::Brace) {
            return Err(input.error("expected the body of a function"));
        }
        Ok(Function {
            attrs,
            vis,
            constness,
            asyncness,
            unsafety,
            abi,
            ident,
            generics,
            inputs,
            output,
            body: input.parse()?,
        })
    }
}

impl Parse for Argument {
    fn parse(input: ParseStream<'_>) -> syn::Result<Argument> {
        let attrs = input.call(Attribute::parse_outer)?;
        let is_receiver = is_receiver(&input.fork())?;
        let mut pattern = TokenStream::new();
        while !input.peek(Token![:]) || input.peek(Token![::]) {
            if is_receiver && (input.is_empty() || input.peek(Token![,])) {
                return Ok(Argument::Receiver(pattern));
            }
            if input.peek(Token![::]) {
                input.parse::<Token![::]>()?.to_tokens(&mut pattern);
            } else {
                input.parse::<TokenTree>()?.to_tokens(&mut pattern);
            }
        }
        input.parse::<Token![:]>()?;
        let ty = input.parse()?;
        Ok(match is_receiver {
            true => Argument::Receiver(pattern),
            false => Argument::Typed(TypedArgument { attrs, pattern, ty }),
        })
    }
}

/// Whether an argument is `self`, `mut self`, `&self` or alike, with or without a type.
fn is_receiver(input: ParseStream<'_>) -> syn::Result<bool> {
    if input.parse::<Option<Token![&]>>()?.is_some() {
        input.parse::<Option<Lifetime>>()?;
    }
    input.parse::<Option<Token![mut]>>()?;
    Ok(input.peek(Token![self]) && !input.peek2(Token![::]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(text: &str) -> syn::Result<Function> {
        syn::parse_str(text)
    }

    #[test]
    fn parts_of_a_function_are_found() {
        let text = "#[cfg(a)] #[b] pub(crate) const unsafe extern \"C\" fn r#match<T: A<B>>(
                #[c] a::Json::<U>(a::S { x: ref y, .. }): a::Json<&'static [T; 2]>, n: u8,
            ) -> Result<(), E> where T: C { #![allow(d)] let x: u8 = 1; x }";
        let found = function(text).unwrap();
        assert_eq!(
            (found.attrs.len(), found.ident.to_string()),
            (2, "r#match".to_owned())
        );
        assert!(found.constness.is_some() && found.unsafety.is_some() && found.abi.is_some());
        assert!(found.asyncness.is_none() && found.generics.where_clause.is_some());
        let [Argument::Typed(first), Argument::Typed(second)] = found.inputs.as_slice() else {
            panic!("two typed arguments");
        };
        let shown = |tokens: &dyn ToTokens| tokens.to_token_stream().to_string();
        assert_eq!(
            shown(&first.pattern),
            "a :: Json :: < U > (a :: S { x : ref y , .. })"
        );
        assert_eq!(shown(&first.ty), "a :: Json < & 'static [T ; 2] >");
        assert_eq!((first.attrs.len(), second.attrs.len()), (1, 0));
        let (inner, rest) = found.split_body().unwrap();
        assert_eq!(
            (inner.len(), rest.to_string()),
            (1, "let x : u8 = 1 ; x".to_owned())
        );
    }

    #[test]
    fn receivers_are_distinguished_from_patterns() {
        for text in [
            "self",
            "mut self",
            "&self",
            "&'a mut self",
            "self: Box<Self>",
            "&self,",
        ] {
            let found = function(&format!("fn f({text}) {{}}")).unwrap();
            assert!(
                matches!(found.inputs[..], [Argument::Receiver(_)]),
                "{text}"
            );
        }
        for text in ["self::P(x): P", "mut x: u8", "&x: &u8", "(a, b): (u8, u8)"] {
            let found = function(&format!("fn f({text}) {{}}")).unwrap();
            assert!(matches!(found.inputs[..], [Argument::Typed(_)]), "{text}");
        }
    }

    #[test]
    fn what_is_no_function_is_refused() {
        for text in [
            "",
            "struct S;",
            "fn f()",
            "fn f(x) {}",
            "fn f(x: u8 y: u8) {}",
            "fn f() {} x",
        ] {
            assert!(function(text).is_err(), "{text}");
        }
    }
}
