//! Text that people paste into a shell.

/// Quotes an argument for a POSIX shell, if it needs that.
pub(super) fn quoted(argument: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/:._-@=+,".contains(c);
    match argument.chars().all(is_plain) {
        true => argument.to_owned(),
        false => format!("'{}'", argument.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_quoted_only_where_needed() {
        for plain in ["http://127.0.0.1:7180", "sqlite:/a/b-c.db"] {
            assert_eq!(quoted(plain), plain);
        }
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("sqlite:it's"), "'sqlite:it'\\''s'");
        assert_eq!(quoted("it's $HOME"), "'it'\\''s $HOME'");
    }
}
