//! Values that must not be seen, and the one that development mode makes by itself. Who uses them is not decided here.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The name of the file with development mode's signing secret.
const FILE_NAME: &str = "jwt-secret";

/// Bytes of randomness in a secret made here: as many as HS256's hash has.
const MADE_BYTES: usize = 32;

/// The least a signing secret may have in production, bytes: RFC 7518, section 3.2, asks as many as the hash has.
pub const MIN_SECRET_BYTES: usize = 32;

/// A value that `Debug` never shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// A new one, of as many random bytes as HS256's hash has. Holds letters, digits, `-` and `_` only.
    pub fn random() -> Self {
        Self(URL_SAFE_NO_PAD.encode(rand::random::<[u8; MADE_BYTES]>()))
    }

    /// The value, for the one that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Reads the signing secret kept in `directory`, or makes one: readable by its owner only, and the same for every process
/// that asks at the same time. An error names the file.
pub(super) fn kept_in(directory: &Path) -> io::Result<Secret> {
    let path = directory.join(FILE_NAME);
    read_or_make(directory, &path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn read_or_make(directory: &Path, path: &Path) -> io::Result<Secret> {
    match read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(directory)?;
            make(directory, path)?;
            // Not the one just made: another process may have been first.
            read(path)
        }
        result => result,
    }
}

fn read(path: &Path) -> io::Result<Secret> {
    let text = fs::read_to_string(path)?;
    let text = text.trim();
    if text.len() < MIN_SECRET_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("holds less than {MIN_SECRET_BYTES} bytes: delete it and a new one is made"),
        ));
    }
    Ok(Secret::new(text))
}

/// Puts a whole secret at `path` unless there is one: a name is linked to a file that is already complete, so nobody ever
/// reads half of it, and linking fails where the name is taken.
fn make(directory: &Path, path: &Path) -> io::Result<()> {
    let draft = draft_path(directory);
    let outcome =
        write_private(&draft, Secret::random().expose()).and_then(|()| {
            match fs::hard_link(&draft, path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                result => result,
            }
        });
    let removed = fs::remove_file(&draft);
    outcome.and(removed)
}

fn draft_path(directory: &Path) -> PathBuf {
    directory.join(format!(".{FILE_NAME}-{:016x}", rand::random::<u64>()))
}

/// Writes a new file that only its owner may read. Fails where there is one of that name.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct TempDir(PathBuf);

    impl TempDir {
        fn new() -> Self {
            let path =
                std::env::temp_dir().join(format!("gateway-secret-{:016x}", rand::random::<u64>()));
            Self(path)
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn is_never_shown() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "[secret]");
    }

    #[test]
    fn is_made_once_and_for_its_owner_only() {
        let dir = TempDir::new();
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let path = dir.0.join("deeper");
                std::thread::spawn(move || kept_in(&path).unwrap())
            })
            .collect();
        let mut secrets: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap().expose().to_owned())
            .collect();
        secrets.dedup();
        assert_eq!(secrets.len(), 1);
        assert!(secrets[0].len() >= MIN_SECRET_BYTES);

        let files: Vec<_> = fs::read_dir(dir.0.join("deeper")).unwrap().collect();
        assert_eq!(files.len(), 1, "no draft is left behind");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = files[0].as_ref().unwrap().metadata().unwrap().permissions();
            assert_eq!(mode.mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_damaged_one_is_refused_by_its_name() {
        let dir = TempDir::new();
        fs::create_dir_all(&dir.0).unwrap();
        fs::write(dir.0.join(FILE_NAME), "short").unwrap();
        let error = kept_in(&dir.0).unwrap_err().to_string();
        assert!(error.contains(FILE_NAME), "{error}");
    }
}
