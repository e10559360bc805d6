//! The valid names of exports.

use proc_macro2::Span;

/// The maximum length of a name in bytes.
const BYTES_MAX: usize = 64;

/// Exports with a special meaning.
const RESERVED: &[&str] = &["memory", "_initialize", "_start"];

/// Symbols that compiled code calls implicitly. An export of the same name would replace them,
/// and the call would trap.
#[rustfmt::skip]
const C_LIBRARY: &[&str] = &[
    "acos", "acosf", "acosh", "asin", "asinf", "asinh", "atan", "atan2", "atan2f", "atanf",
    "atanh", "bcmp", "calloc", "cbrt", "cbrtf", "ceil", "ceilf", "copysign", "cos", "cosf",
    "cosh", "coshf", "erf", "exp", "exp10", "exp2", "exp2f", "expf", "expm1", "expm1f", "fabs",
    "fabsf", "fdim", "fdimf", "floor", "floorf", "fma", "fmaf", "fmax", "fmaxf", "fmin", "fminf",
    "fmod", "fmodf", "free", "frexp", "hypot", "hypotf", "ldexp", "lgamma", "lgamma_r", "log",
    "log10", "log10f", "log1p", "log1pf", "log2", "log2f", "logf", "malloc", "memchr", "memcmp",
    "memcpy", "memmove", "memset", "modf", "pow", "powf", "realloc", "remainder", "rint", "rintf",
    "round", "roundeven", "roundf", "sin", "sinf", "sinh", "sinhf", "sqrt", "sqrtf", "strlen",
    "tan", "tanf", "tanh", "tanhf", "tgamma", "trunc", "truncf",
];

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
    if C_LIBRARY.contains(&name) || name.starts_with("__") {
        return error(format!(
            "`{name}` may be a symbol that compiled code calls; choose another name with `name = \"...\"`"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_export_names_are_rejected() {
        for good in ["add", "read", "Guest.book-2"] {
            assert!(check(good, Span::call_site()).is_ok(), "{good}");
        }
        let long = "a".repeat(65);
        for bad in [
            "", "a b", "é", "a\"", "memory", "_start", "exp", "memcpy", "__x", &long,
        ] {
            assert!(check(bad, Span::call_site()).is_err(), "{bad}");
        }
    }
}
