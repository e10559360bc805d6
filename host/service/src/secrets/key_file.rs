//! The key file: one key a line, in hexadecimal. The first key seals; all of them open.

use super::key::SecretsKey;
use super::{KeyFileError, SecretsError};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// More than two keys are in a file only if rotations were given up.
const KEYS_MAX: usize = 16;
const FILE_BYTES_MAX: u64 = 16 * 1024;
const HEAD: &str = "# Keys for secrets, made by kvasm. The first seals, all of them open. Keep a \
                    copy: without it the secrets are lost.\n";

fn failed(path: &Path, why: impl ToString) -> SecretsError {
    SecretsError::KeyFile(KeyFileError {
        path: path.to_owned(),
        why: why.to_string(),
    })
}

/// What changes when the file is replaced or edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileState {
    modified: Option<std::time::SystemTime>,
    len: u64,
    #[cfg(unix)]
    inode: u64,
}

impl FileState {
    pub(super) fn of(path: &Path) -> io::Result<FileState> {
        Ok(FileState::new(&path.metadata()?))
    }

    fn new(about: &std::fs::Metadata) -> FileState {
        FileState {
            modified: about.modified().ok(),
            len: about.len(),
            #[cfg(unix)]
            inode: std::os::unix::fs::MetadataExt::ino(about),
        }
    }
}

/// Reads the keys of a file; `None` if it does not exist.
pub(super) fn read(path: &Path) -> Result<Option<(Vec<SecretsKey>, FileState)>, SecretsError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path, error)),
    };
    let about = file.metadata().map_err(|e| failed(path, e))?;
    check_access(path, &about)?;
    let mut text = Zeroizing::new(String::new());
    let read = file.take(FILE_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|e| failed(path, e))?;
    let keys = parse(&text).map_err(|why| failed(path, why))?;
    Ok(Some((keys, FileState::new(&about))))
}

/// Refuses a file that others can read, or that others than its owner can change.
fn check_access(path: &Path, about: &std::fs::Metadata) -> Result<(), SecretsError> {
    if !about.is_file() {
        return Err(failed(path, "it is not a file"));
    }
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::MetadataExt::mode(about) & 0o777;
        if mode & 0o027 != 0 {
            let why = format!(
                "other users can read or change it (mode {mode:o}); restrict it with `chmod 600`"
            );
            return Err(failed(path, why));
        }
    }
    Ok(())
}

/// Parses the keys. The error names the line, and never repeats it.
fn parse(text: &str) -> Result<Vec<SecretsKey>, String> {
    let mut keys = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut key = Zeroizing::new([0; SecretsKey::BYTES]);
        hex::decode_to_slice(line, key.as_mut_slice())
            .map_err(|_| format!("line {number} is not a key: expected 64 hexadecimal digits"))?;
        keys.push(SecretsKey::new(*key));
    }
    match keys.len() {
        0 => Err("it contains no key".to_owned()),
        KEYS_MAX.. => Err(format!(
            "it contains {} keys; at most {}",
            keys.len(),
            KEYS_MAX - 1
        )),
        _ => Ok(keys),
    }
}

/// Writes a new file that only its owner can read, next to `path`.
fn write_beside(path: &Path, keys: &[SecretsKey]) -> io::Result<PathBuf> {
    let mut text = Zeroizing::new(HEAD.to_owned());
    for key in keys {
        text.push_str(&key.hex());
        text.push('\n');
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", uuid::Uuid::new_v4().simple()));
    let beside = path.with_file_name(name);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&beside).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    match written {
        Ok(()) => Ok(beside),
        Err(error) => {
            let _ = std::fs::remove_file(&beside);
            Err(error)
        }
    }
}

/// Makes the entry of a file in its folder durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

/// Creates a key file that does not exist. If another process creates it first, that file stays.
pub(super) fn create(path: &Path) -> Result<(), SecretsError> {
    let key = SecretsKey::generate()?;
    let beside = write_beside(path, &[key]).map_err(|e| failed(path, e))?;
    // Unlike a rename, a link does not replace a file.
    let linked = std::fs::hard_link(&beside, path);
    let _ = std::fs::remove_file(&beside);
    match linked {
        Ok(()) => sync_folder(path).map_err(|e| failed(path, e)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed(path, error)),
    }
}

/// Replaces the keys of a file, atomically and durably.
pub(super) fn replace(path: &Path, keys: &[SecretsKey]) -> Result<(), SecretsError> {
    let replaced = write_beside(path, keys).and_then(|beside| {
        std::fs::rename(&beside, path).inspect_err(|_| {
            let _ = std::fs::remove_file(&beside);
        })?;
        sync_folder(path)
    });
    replaced.map_err(|error| {
        let why = format!(
            "cannot write it: {error}; to rotate with a file that this host cannot change, put the \
             new key on its first line and use --prepared"
        );
        failed(path, why)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_key_file_is_refused_without_showing_it() {
        let good = "5a".repeat(32);
        for bad in [
            "",
            "# only a comment\n",
            "5a5a",
            &format!("{good}5a"),
            "hunter2",
        ] {
            let error = parse(bad).unwrap_err();
            assert!(
                !error.contains("5a") && !error.contains("hunter2"),
                "{error}"
            );
        }
        let error = parse(&format!("{good}\nnot a key")).unwrap_err();
        assert!(error.starts_with("line 2 "), "{error}");
        assert_eq!(
            parse(&format!("# c\n\n {good} \n{good}\n")).unwrap().len(),
            2
        );
        let many = format!("{good}\n").repeat(KEYS_MAX);
        assert!(parse(&many).is_err());
    }
}
