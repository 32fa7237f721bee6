//! Passwords: which are allowed, and bcrypt, which is slow by design and therefore never runs on an async thread.

use std::sync::Arc;

use shared::ErrorCode;
use tokio::sync::Semaphore;

use crate::failure::Failure;
use crate::gate::Gate;

/// As the old system hashed.
const COST: u32 = 10;

/// The shortest new password, characters.
const MIN_CHARACTERS: usize = 8;

/// The longest password, bytes: bcrypt does not look at more.
const MAX_BYTES: usize = 72;

/// How many may wait for a processor. One hash takes some 50 ms, so the last in line waits about as long as anybody does
/// who looks at a sign-in page; who comes after is better told at once.
const MAX_WAITING: usize = 128;

/// No password's hash, but as much work to compare with: an unknown user takes as long as a wrong password.
const NOBODYS_HASH: &str = "$2b$10$uuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuu";

/// Hashes and compares passwords, a bounded number at once.
#[derive(Debug, Clone)]
pub struct Passwords {
    /// Hashes under way. Half of the processors, so that a rush of sign-ins leaves the other half to the sockets.
    workers: Arc<Semaphore>,
    /// Calls waiting or under way.
    admitted: Arc<Gate>,
}

impl Default for Passwords {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self::new((processors / 2).max(1), MAX_WAITING)
    }
}

impl Passwords {
    fn new(workers: usize, waiting: usize) -> Self {
        Self {
            workers: Arc::new(Semaphore::new(workers)),
            admitted: Arc::new(Gate::new("passwords", workers + waiting)),
        }
    }

    /// Checks a new password against the rules.
    pub fn check_new(password: &str) -> Result<(), Failure> {
        if password.chars().count() < MIN_CHARACTERS {
            Err(Failure::validation(format!(
                "the password must have at least {MIN_CHARACTERS} characters"
            )))
        } else if password.len() > MAX_BYTES {
            Err(Failure::validation(format!(
                "the password must not be longer than {MAX_BYTES} bytes"
            )))
        } else if password.contains('\0') {
            // C implementations of bcrypt end there: what follows would protect nothing in another system.
            Err(Failure::validation(
                "the password must not contain a zero character",
            ))
        } else {
            Ok(())
        }
    }

    /// The hash of a new password, which is checked against the rules first.
    pub async fn hash(&self, password: &str) -> Result<String, Failure> {
        Self::check_new(password)?;
        let password = password.to_owned();
        self.run(move || bcrypt::hash(password, COST))
            .await?
            .map_err(Failure::internal)
    }

    /// Whether a password is the one of a hash. Takes as long without a hash as with one, and as long for a password that
    /// nobody can have. A hash that is none is nobody's.
    pub async fn verify(&self, password: &str, hash: Option<&str>) -> Result<bool, Failure> {
        let possible = hash.is_some() && password.len() <= MAX_BYTES;
        let password = password.as_bytes()[..password.len().min(MAX_BYTES)].to_owned();
        let hash = hash.unwrap_or(NOBODYS_HASH).to_owned();
        let matches = self
            .run(move || {
                bcrypt::verify(&password, &hash).unwrap_or_else(|_| {
                    let _ = bcrypt::verify(&password, NOBODYS_HASH);
                    false
                })
            })
            .await?;
        Ok(matches && possible)
    }

    /// Runs slow work off the async threads. What was begun is finished, and counted until then, also when its caller has
    /// gone.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let admission = self.admitted.enter()?;
        let worker = Arc::clone(&self.workers)
            .acquire_owned()
            .await
            .map_err(Failure::internal)?;
        tokio::task::spawn_blocking(move || {
            let _held = (admission, worker);
            work()
        })
        .await
        .map_err(Failure::internal)
    }
}

/// A name and a password that do not belong together. Which of them was wrong is not told.
pub(super) fn wrong_credentials() -> Failure {
    Failure::new(
        ErrorCode::InvalidCredentials,
        "the e-mail address or the password is wrong",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `correct horse` at cost 4, as the three writers of bcrypt name their version.
    fn hash_as(version: bcrypt::Version) -> String {
        bcrypt::hash_with_salt("correct horse", 4, [7; 16])
            .unwrap()
            .format_for_version(version)
    }

    #[tokio::test]
    async fn every_version_the_old_system_wrote_is_known() {
        let passwords = Passwords::default();
        for version in [
            bcrypt::Version::TwoA,
            bcrypt::Version::TwoB,
            bcrypt::Version::TwoY,
        ] {
            let hash = hash_as(version);
            assert!(
                passwords
                    .verify("correct horse", Some(&hash))
                    .await
                    .unwrap()
            );
            assert!(!passwords.verify("wrong horse", Some(&hash)).await.unwrap());
        }
    }

    #[tokio::test]
    async fn a_hash_of_another_implementation_is_known() {
        // From the test vectors published with jBCrypt.
        let hash = "$2a$10$WvvTPHKwdBJ3uk0Z37EMR.hLA2W6N9AEBhEgrAOljy2Ae5MtaSIUi";
        let passwords = Passwords::default();
        assert!(passwords.verify("abc", Some(hash)).await.unwrap());
        assert!(!passwords.verify("abd", Some(hash)).await.unwrap());
    }

    #[tokio::test]
    async fn what_is_hashed_is_verified() {
        let passwords = Passwords::default();
        let longest = "ä".repeat(MAX_BYTES / 2);
        let hash = passwords.hash(&longest).await.unwrap();
        assert!(hash.starts_with("$2b$10$"));
        assert!(passwords.verify(&longest, Some(&hash)).await.unwrap());
    }

    #[tokio::test]
    async fn a_longer_password_than_bcrypt_reads_is_never_right() {
        let passwords = Passwords::new(1, 1);
        let longest = "a".repeat(MAX_BYTES);
        let hash = bcrypt::hash(&longest, 4).unwrap();
        assert!(passwords.verify(&longest, Some(&hash)).await.unwrap());
        let longer = format!("{longest}a");
        assert!(!passwords.verify(&longer, Some(&hash)).await.unwrap());
    }

    #[tokio::test]
    async fn nobody_has_no_password() {
        let passwords = Passwords::default();
        assert!(!passwords.verify("anything", None).await.unwrap());
        assert!(!passwords.verify("x", Some("not a hash")).await.unwrap());
        // The work is really done, and as much of it as for somebody.
        let parts: bcrypt::HashParts = NOBODYS_HASH.parse().unwrap();
        assert_eq!(parts.get_cost(), COST);
    }

    #[tokio::test]
    async fn who_finds_the_line_too_long_is_told_at_once() {
        let passwords = Passwords::new(1, 1);
        let (release, gate) = std::sync::mpsc::channel::<()>();
        let first = passwords.clone();
        let running = tokio::spawn(async move { first.run(move || gate.recv()).await });
        let second = passwords.clone();
        let waiting = tokio::spawn(async move { second.run(|| ()).await });
        while passwords.admitted.under_way() < 2 {
            tokio::task::yield_now().await;
        }
        let refused = passwords.run(|| ()).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::ServiceUnavailable);
        drop(release);
        assert!(running.await.unwrap().is_ok());
        assert!(waiting.await.unwrap().is_ok());
        assert!(passwords.run(|| ()).await.is_ok());
    }

    #[test]
    fn new_passwords_have_8_characters_to_72_bytes() {
        for good in ["12345678", "ääääääää", &"a".repeat(72)] {
            assert!(Passwords::check_new(good).is_ok());
        }
        for bad in ["", "1234567", "äääääää", &"a".repeat(73), "1234567\0"] {
            assert_eq!(
                Passwords::check_new(bad).unwrap_err().code,
                ErrorCode::ValidationError
            );
        }
    }
}
