//! A file for a new token, so that scripts need not search the output for it.

use super::failure::Failure;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// A new, empty file that only its owner can read. It is removed unless a token is written.
pub(super) struct TokenFile {
    path: PathBuf,
    file: File,
    is_written: bool,
}

impl TokenFile {
    /// Creates the file. Call it before the token is created, which is shown only once.
    ///
    /// # Errors
    /// A user error: it exists, or cannot be created.
    pub(super) fn create(path: &Path) -> Result<TokenFile, Failure> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let shown = path.display();
        let file = options.open(path).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => Failure::user(format!(
                "--token-file: {shown} exists, and is not overwritten; remove it, or name another file"
            )),
            _ => Failure::user(format!("--token-file: cannot create {shown}: {error}")),
        })?;
        Ok(TokenFile {
            path: path.to_owned(),
            file,
            is_written: false,
        })
    }

    /// Writes the token and a line break.
    ///
    /// # Errors
    /// A host error, after which nobody knows the token.
    pub(super) fn write(mut self, token: &str) -> Result<(), Failure> {
        let written = writeln!(self.file, "{token}").and_then(|()| self.file.sync_all());
        written.map_err(|error| {
            Failure::host(format!("--token-file: {}: {error}", self.path.display())).with_advice(
                "The token is lost; create another one with `kvasm token create` on this host",
            )
        })?;
        self.is_written = true;
        Ok(())
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        if !self.is_written {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_without_a_token_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        drop(TokenFile::create(&path).ok().unwrap());
        assert!(!path.exists());
        TokenFile::create(&path)
            .ok()
            .unwrap()
            .write("t")
            .ok()
            .unwrap();
        assert!(TokenFile::create(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "t\n");
    }
}
