//! Formats tokens as canonical text.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;

/// Formats tokens with conventional spacing, independent of the source and of the parser's
/// version.
pub fn of(tokens: impl ToTokens) -> String {
    let mut flat = Vec::new();
    flatten(tokens.to_token_stream(), &mut flat);
    let mut text = String::new();
    for (at, token) in flat.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| flat[at].as_str());
        let after = flat.get(at + 1).map(String::as_str);
        match token.as_str() {
            "," | ";" if after.is_some_and(is_closing) => continue,
            "," | ";" => text += &format!("{token} "),
            "->" | "=" | "=>" | "+" => text += &format!(" {token} "),
            ":" => text += ": ",
            word => {
                let is_apart = match before {
                    Some(">") => starts_with_word(word),
                    Some("for") => true,
                    Some(before) if before.starts_with('\'') => {
                        starts_with_word(word) || word == "["
                    }
                    Some(before) => ends_in_word(before) && starts_with_word(word),
                    None => false,
                };
                text += if is_apart { " " } else { "" };
                text += word;
            }
        }
    }
    text.trim().to_owned()
}

fn is_closing(token: &str) -> bool {
    matches!(token, ")" | "]" | "}" | ">")
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '\'' | '"')
}

fn ends_in_word(token: &str) -> bool {
    token.ends_with(is_word)
}

fn starts_with_word(token: &str) -> bool {
    token.starts_with(is_word)
}

/// Flattens tokens into words; joint punctuation becomes one word.
fn flatten(tokens: TokenStream, flat: &mut Vec<String>) {
    let mut joined = String::new();
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    proc_macro2::Delimiter::Parenthesis => ("(", ")"),
                    proc_macro2::Delimiter::Bracket => ("[", "]"),
                    proc_macro2::Delimiter::Brace => ("{", "}"),
                    proc_macro2::Delimiter::None => ("", ""),
                };
                flat.push(open.to_owned());
                flatten(group.stream(), flat);
                flat.push(close.to_owned());
            }
            TokenTree::Punct(sign) => {
                joined.push(sign.as_char());
                if sign.spacing() == proc_macro2::Spacing::Alone || sign.as_char() == '>' {
                    flat.push(std::mem::take(&mut joined));
                }
            }
            // A lifetime is a quote and a name.
            TokenTree::Ident(name) => flat.push(std::mem::take(&mut joined) + &name.to_string()),
            TokenTree::Literal(literal) => flat.push(literal.to_string()),
        }
    }
}
