//! The valid names of exports.

use proc_macro2::Span;

/// The maximum length of a name in bytes.
const BYTES_MAX: usize = 64;

/// Exports with a special meaning.
const RESERVED: &[&str] = &["memory", "_initialize", "_start"];

/// Validates the name of an export.
pub fn check(name: &str, span: Span) -> syn::Result<()> {
    let error = |message: String| Err(syn::Error::new(span, message));
    if name.is_empty() || name.len() > BYTES_MAX {
        return error(format!("a function's name has 1 to {BYTES_MAX} bytes"));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if let Some(found) = name.chars().find(|c| !allowed(*c)) {
        return error(format!(
            "a function's name cannot contain {found:?}; allowed are a-z, A-Z, 0-9, '_', '-' and '.'"
        ));
    }
    if RESERVED.contains(&name) {
        return error(format!(
            "the export `{name}` has a special meaning; choose another name"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_export_names_are_rejected() {
        for good in ["add", "write", "memcpy", "__x", "Guest.book-2"] {
            assert!(check(good, Span::call_site()).is_ok(), "{good}");
        }
        let long = "a".repeat(65);
        for bad in ["", "a b", "é", "a\"", "memory", "_start", &long] {
            assert!(check(bad, Span::call_site()).is_err(), "{bad}");
        }
    }
}
